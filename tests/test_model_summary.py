"""What is in a checkpoint: quantrim.model.summary beside plain numpy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from held_tensors import Held, normal
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike
from safetensors.numpy import save_file

import quantrim as qt
from quantrim.files import AtomicFile, encode_header, open_checkpoint
from quantrim.model import compress, logical_tensors
from quantrim.model.report.inspect import BINS, SAMPLE, SPAN, inspect, statistics
from quantrim.model.streaming import row_blocks as blocks


@pytest.mark.parametrize(
    "dtype",
    [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, ml_dtypes.float8_e4m3fn, np.int8, np.int64],
)
def test_figures_are_those_of_numpy(dtype: DTypeLike) -> None:
    w = (10 * normal(9, 31)).astype(dtype)
    w[2] = 0
    x = w.astype(np.float64)
    s = statistics(Held(w))
    assert (s.count, s.zeros, s.nonfinite) == (w.size, int(np.count_nonzero(x == 0)), 0)
    assert (s.low, s.high) == (x.min(), x.max())
    assert s.rms == pytest.approx(math.sqrt((x * x).mean()), rel=1e-12)  # order of sums
    assert s.sparsity == np.mean(x == 0)


def test_both_zeros_are_zeros() -> None:
    assert statistics(Held(np.array([[0.0, -0.0, 1.0]], np.float32))).zeros == 2


@pytest.mark.promise("A1")
def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    s = statistics(Held(np.array([[np.nan, 1.0], [np.inf, -3.0], [-np.inf, 0.0]], np.float32)))
    assert (s.count, s.zeros, s.nonfinite, s.low, s.high) == (6, 1, 3, -3.0, 1.0)
    assert s.rms == pytest.approx(math.sqrt(10 / 3), rel=1e-15)
    assert sum(s.histogram.counts) == 3


def test_nothing_finite() -> None:
    s = statistics(Held(np.full((2, 2), np.nan, np.float32)))
    assert s.nonfinite == 4 and math.isnan(s.low) and math.isnan(s.rms) and sum(s.histogram.counts) == 0


@pytest.mark.promise("A19")
@pytest.mark.parametrize("shape", [(0,), (0, 8), (8, 0), (), (5,), (2, 3, 4), (2, 3, 2, 2), (2, 1, 2, 2, 2)])
def test_every_shape(shape: tuple[int, ...]) -> None:
    s = statistics(Held(np.ones(shape, np.float32)))
    assert s.count == sum(s.histogram.counts) == math.prod(shape)
    assert (s.low, s.rms) == (1.0, 1.0) if s.count else math.isnan(s.low)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_blocks_do_not_change_the_figures(rows: int, cols: int, seed: int) -> None:
    w = normal(rows, cols, seed=seed)
    whole = statistics(Held(w))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", 4 * 40)
        parts = statistics(Held(w))
    assert parts.rms == pytest.approx(whole.rms, rel=1e-12)  # order of sums
    assert (parts.low, parts.high, parts.zeros, parts.histogram) == (
        whole.low,
        whole.high,
        whole.zeros,
        whole.histogram,
    )


# The histogram


def test_the_histogram_of_a_small_tensor_counts_all_of_it() -> None:
    w = normal(40, 50)
    h = statistics(Held(w)).histogram
    mean, reach = w.astype(np.float64).mean(), SPAN * w.astype(np.float64).std()
    assert h.low == max(w.min(), mean - reach) and h.high == min(w.max(), mean + reach)
    expected, _ = np.histogram(np.clip(w.astype(np.float64), h.low, h.high), BINS, (h.low, h.high))
    assert h.counts == tuple(expected)


def test_the_middle_bin_holds_the_zeros_of_a_symmetric_tensor() -> None:
    w = normal(100, 100)
    w[np.abs(w) < 1] = 0
    w = np.concatenate([w, -w])
    counts = statistics(Held(w)).histogram.counts
    assert max(counts) == counts[BINS // 2] >= np.count_nonzero(w == 0)


def test_a_constant_has_one_bin() -> None:
    assert np.count_nonzero(statistics(Held(np.full((3, 3), 1e30, np.float32))).histogram.counts) == 1
    assert np.count_nonzero(statistics(Held(np.zeros((3, 3), np.float32))).histogram.counts) == 1


def test_outliers_are_in_the_last_bins() -> None:
    w = normal(100, 100)
    w[0, 0], w[0, 1] = 1e4, -1e4
    h = statistics(Held(w)).histogram
    assert h.counts[0] == h.counts[-1] == 1 and h.high < 1e4


@pytest.mark.parametrize("size", [SAMPLE - 1, SAMPLE, SAMPLE + 1, 3 * SAMPLE + 5])
def test_a_large_tensor_is_sampled_evenly(size: int) -> None:
    h = statistics(Held(np.arange(size, dtype=np.float32)[None])).histogram
    assert SAMPLE // 4 <= sum(h.counts) <= SAMPLE
    assert max(h.counts) - min(h.counts) <= 1 + max(h.counts) // 100


def test_blocks_do_not_change_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    w = normal(3001, 401)
    whole = statistics(Held(w)).histogram
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 7 * 401 * 4)
    assert statistics(Held(w)).histogram == whole


def test_sampling_sees_every_column_of_a_matrix_of_powers_of_two() -> None:
    w = np.zeros((1024, 1024), np.float32)
    w[:, 3] = 1
    counts = statistics(Held(w)).histogram.counts
    assert counts[-1] / sum(counts) == pytest.approx(1 / 1024, rel=0.05)


# Whole checkpoints


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a.weight": normal(64, 128), "a.bias": normal(64), "step": np.array(7)}, path, {"format": "pt"})
    return path


def test_a_float_checkpoint(model: Path) -> None:
    found = inspect(model)
    tensors = {t.name: t for t in found.tensors}
    assert found.path == str(model) and found.shards == (model.name,) and found.metadata == {"format": "pt"}
    assert (tensors["a.weight"].shape, tensors["a.weight"].label) == ((64, 128), "F32")
    assert tensors["a.weight"].bits_per_weight == 32
    assert tensors["step"].shape == () and tensors["step"].statistics.low == 7  # type: ignore[union-attr]
    assert found.nbytes == 64 * 128 * 4 + 64 * 4 + 8 and found.size == 64 * 128 + 64 + 1


def test_a_compressed_checkpoint_is_summarized_by_what_it_decodes_to(model: Path) -> None:
    small = model.with_name("small.safetensors")
    compress(model, small, bits=4, prune="2:4")
    found = {t.name: t for t in inspect(small).tensors}
    assert set(found) == {"a.weight", "a.bias", "step"}
    with open_checkpoint(small) as checkpoint:
        w = logical_tensors(checkpoint)["a.weight"].rows(0, 64)
    s = found["a.weight"].statistics
    assert s is not None and (s.low, s.high, s.sparsity) == (w.min(), w.max(), qt.sparsity(w))
    assert s.sparsity >= 0.5 and "int4" in found["a.weight"].label
    assert found["a.weight"].bits_per_weight == 4 + 16 / 32 + 8 * 16 / (64 * 128)  # codes, scales, weight_shape


@pytest.mark.parametrize("shape", [(128, 129, 3), (6, 5, 64), (8, 3, 7, 7)])
def test_a_file_with_weights_of_three_axes_and_more(tmp_path: Path, shape: tuple[int, ...]) -> None:
    w = normal(*shape)
    save_file({"conv.weight": w}, tmp_path / "m.safetensors")
    (found,) = inspect(tmp_path / "m.safetensors").tensors
    assert found.shape == shape and found.statistics is not None
    assert (found.statistics.count, found.statistics.low) == (w.size, w.min())


def test_headers_alone_do_not_read_the_weights(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("quantrim.model.streaming.tensors.LogicalTensor.rows", read)
    assert all(t.statistics is None for t in inspect(model, stats=False).tensors)
    with pytest.raises(AssertionError, match="weights were read"):
        inspect(model)


def test_codes_without_a_dtype_have_no_statistics(tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    header, _ = encode_header([("w", "F4", (2, 8)), ("c", "C64", (2,))])
    with AtomicFile(path) as file:
        file.write(header + bytes(8 + 16))
    assert [(t.label, t.statistics) for t in inspect(path).tensors] == [("C64", None), ("F4", None)]


def test_progress_names_every_tensor(model: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    total = inspect(model, progress=lambda *call: calls.append(call)).nbytes
    assert [name for _, _, name in calls] == [t.name for t in inspect(model, stats=False).tensors]
    assert all(done < of == total for done, of, _ in calls)


def test_instruction_sets_agree(model: Path) -> None:
    found = []
    for isa in qt.isas():
        with qt.use_isa(isa):
            found.append(inspect(model))
    assert all(each == found[0] for each in found)


@pytest.mark.promise("fault-D21")
@pytest.mark.parametrize(
    "options", [{}, {"group_size": 64}, {"bits": 8}, {"bits": 3, "symmetric": False}, {"bits": 4, "prune": 0.8}]
)
def test_a_report_and_the_file_have_one_name_for_one_thing(tmp_path: Path, options: dict[str, Any]) -> None:
    """A group that covers the row is its channel, whatever was asked for."""
    save_file({f"{cols}.weight": normal(96, cols) for cols in (32, 64, 128, 256)}, tmp_path / "m.safetensors")
    report = compress(tmp_path / "m.safetensors", tmp_path / "small.safetensors", min_elements=0, **options)
    stored = {t.name: t.label for t in inspect(tmp_path / "small.safetensors", stats=False).tensors}
    pruned = ", 80% pruned" if "prune" in options else ""
    assert {t.name: t.label for t in report.tensors} == {name: label + pruned for name, label in stored.items()}
    assert " channel " in stored["32.weight"] and (" channel " in stored["256.weight"]) == (options.get("bits") == 8)
