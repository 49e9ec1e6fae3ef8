"""How far two checkpoints are apart: quantrim.model.compare beside plain numpy."""

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
from numpy.typing import DTypeLike, NDArray
from safetensors.numpy import save_file

import quantrim as qt
from quantrim.files import open_checkpoint
from quantrim.model import compress
from quantrim.model.report.compare import compare, compare_tensors, difference
from quantrim.model.streaming import row_blocks as blocks


def apart(a: NDArray[Any], b: NDArray[Any]) -> Any:
    return difference(Held(a), Held(b))


# One tensor


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, ml_dtypes.float8_e4m3fn])
@pytest.mark.parametrize("other", [np.float32, np.float16])
def test_figures_are_those_of_numpy(dtype: DTypeLike, other: DTypeLike) -> None:
    a, noise = normal(7, 33, dtype=dtype), 0.01 * normal(7, 33, seed=1)
    b = (a.astype(np.float32) + noise).astype(other)
    d = apart(a, b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    assert d.snr == pytest.approx(10 * math.log10((x * x).sum() / ((x - y) ** 2).sum()), rel=1e-12)  # order of sums
    assert d.cosine == pytest.approx((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), rel=1e-12)
    assert d.worst == np.abs(x - y).max()
    assert d.relative == pytest.approx(np.abs(x - y).max() / np.abs(x).max(), rel=1e-15)
    assert not d.equal and d.nonfinite == 0


def test_equal_tensors_are_exact() -> None:
    a = normal(5, 6)
    d = apart(a, a.copy())
    assert (d.equal, d.snr, d.cosine, d.worst, d.relative) == (True, math.inf, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("at", range(24))
def test_one_changed_weight_is_found_wherever_it_is(at: int) -> None:
    a = normal(4, 6)
    b = a.copy()
    b.reshape(-1)[at] += np.float32(0.5)
    d = apart(a, b)
    assert not d.equal and math.isfinite(d.snr)
    assert d.worst == abs(float(a.reshape(-1)[at]) - float(b.reshape(-1)[at]))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_blocks_do_not_change_the_figures(rows: int, cols: int, seed: int) -> None:
    a, b = normal(rows, cols, seed=seed), normal(rows, cols, seed=seed + 1)
    whole = apart(a, b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", 4 * 40)
        parts = apart(a, b)
    assert (parts.worst, parts.highest, parts.equal) == (whole.worst, whole.highest, whole.equal)
    assert parts.snr == pytest.approx(whole.snr, rel=1e-12, abs=1e-12)  # order of sums
    assert parts.cosine == pytest.approx(whole.cosine, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_weight_may_have_either_sign(sign: int) -> None:
    a = np.array([[1.0, sign * 4.0]], np.float32)
    assert apart(a, a + np.float32(1)).relative == 0.25


def test_zero_against_zero_and_against_noise() -> None:
    zero, one = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert apart(zero, -zero).equal
    lost = apart(one, zero)
    assert lost.snr == 0.0 and math.isnan(lost.cosine) and lost.relative == 1.0
    found = apart(zero, one)
    assert found.snr == -math.inf and found.relative == math.inf


@pytest.mark.promise("A1")
def test_places_that_are_not_finite_are_counted_and_left_out() -> None:
    a, b = normal(3, 4), normal(3, 4, seed=1)
    clean = apart(np.where(np.arange(12).reshape(3, 4) < 9, a, 0), np.where(np.arange(12).reshape(3, 4) < 9, b, 0))
    a.reshape(-1)[9:] = [np.nan, np.inf, np.nan]
    b.reshape(-1)[9:] = [np.nan, -np.inf, 1.0]
    d = apart(a, b)
    assert d.nonfinite == 2  # the two NaN are alike
    assert (d.worst, d.signal, d.noise) == pytest.approx((clean.worst, clean.signal, clean.noise), rel=1e-12)
    assert apart(a, a.copy()).equal


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (np.array([[2**60, 1]]), np.array([[2**60 + 1, 1]]), False),  # beyond the 53 bits of a float64
        (np.array([[True, False]]), np.array([[True, False]]), True),
        (np.array([[1, 2]], np.uint8), np.array([[1, 4]], np.uint8), False),
        (np.array([[1.0, 1.0 + 2**-40]]), np.array([[1.0, 1.0]]), False),  # beyond float32
    ],
)
def test_other_dtypes_are_not_narrowed(a: NDArray[Any], b: NDArray[Any], equal: bool) -> None:
    assert apart(a, b).equal is equal


@pytest.mark.promise("A19")
@pytest.mark.parametrize("shape", [(0,), (0, 8), (8, 0), (), (5,), (2, 3, 4), (2, 3, 2, 2), (2, 1, 2, 2, 2)])
def test_every_shape(shape: tuple[int, ...]) -> None:
    a = np.asarray(normal(*shape), np.float32)
    d = apart(a, a + np.float32(1))
    assert d.equal is (a.size == 0)
    assert d.noise == pytest.approx(a.size, rel=1e-5)  # a + 1 is rounded to float32


def test_codes_without_a_dtype_are_compared_for_equality_alone() -> None:
    a, b = np.zeros((2, 4), np.uint8), np.ones((2, 4), np.uint8)
    assert difference(Held(a, label="F4"), Held(a.copy(), label="F4")).equal
    with pytest.raises(ValueError, match="tensor 'w' must be of real numbers to be compared, not F4 and F4"):
        difference(Held(a, label="F4"), Held(b, label="F4"))


# Whole checkpoints


@pytest.mark.parametrize("shape", [(128, 129, 3), (6, 5, 64), (6, 5, 63), (8, 3, 7, 7)])
def test_files_of_weights_of_three_axes_and_more(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Convolutions along one axis, of short kernels and of long ones."""
    w = normal(*shape)
    save_file({"conv.weight": w}, tmp_path / "a.safetensors")
    compress(tmp_path / "a.safetensors", tmp_path / "b.safetensors", bits=4, min_elements=0)
    (found,) = compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors").differences
    assert found.shape == shape and found.highest == np.abs(w).max() and 0 < found.worst < found.highest
    assert found.signal == pytest.approx(float((w.astype(np.float64) ** 2).sum()), rel=1e-12)  # order of sums


def test_missing_extra_and_reshaped_tensors_are_named() -> None:
    a = {name: Held(normal(2, 3), name) for name in ("both", "gone", "turned")}
    b = {"turned": Held(normal(3, 2), "turned"), "new": Held(normal(2, 3), "new"), "both": a["both"]}
    found = compare_tensors(a, b)
    assert (found.missing, found.extra) == (("gone",), ("new",))
    assert found.reshaped == (("turned", (2, 3), (3, 2)),)
    assert [d.name for d in found.differences] == ["both"]
    assert not found.matching and not found.equal


def test_the_overall_figure_is_that_of_all_weights_together() -> None:
    a = {"x": Held(normal(4, 4), "x"), "y": Held(100 * normal(4, 4, seed=1), "y")}
    b = {"x": Held(normal(4, 4, seed=2), "x"), "y": Held(100 * normal(4, 4, seed=1) + 1, "y")}
    whole = apart(*(np.concatenate([side["x"].array, side["y"].array]) for side in (a, b)))
    assert compare_tensors(a, b).snr == pytest.approx(whole.snr, rel=1e-12)  # order of sums


def test_tensors_that_are_equal_do_not_drown_the_others() -> None:
    a = {"x": Held(normal(4, 4), "x"), "index": Held(np.arange(512)[None], "index")}
    b = {**a, "x": Held(normal(4, 4, seed=2), "x")}
    found = compare_tensors(a, b)
    assert found.snr == apart(a["x"].array, b["x"].array).snr and not found.equal
    assert compare_tensors(a, a).snr == math.inf and compare_tensors(a, a).equal


def test_progress_names_every_tensor() -> None:
    a = {name: Held(normal(2, 3), name) for name in ("x", "y")}
    calls: list[tuple[int, int, str]] = []
    compare_tensors(a, a, lambda *call: calls.append(call))
    assert calls == [(0, 48, "x"), (24, 48, "y")]


def test_progress_goes_on_within_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 * 3 * 4)
    a = {name: Held(normal(5, 3), name) for name in ("x", "y")}
    calls: list[tuple[int, int, str]] = []
    compare_tensors(a, a, lambda *call: calls.append(call))
    assert [(done, name) for done, _, name in calls] == [
        (0, "x"), (24, "x"), (48, "x"), (60, "y"), (84, "y"), (108, "y"),
    ]  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    arrays = {f"{k}.weight": normal(64, 128, seed=k) for k in range(3)}
    save_file({**arrays, "0.bias": normal(64, seed=9)}, path)
    return path


@pytest.mark.parametrize(
    "options", [{"bits": 4}, {"bits": 8}, {"bits": 3, "symmetric": False}, {"bits": 4, "prune": "2:4"}]
)
def test_a_compressed_checkpoint_is_compared_by_what_it_decodes_to(model: Path, options: dict[str, Any]) -> None:
    small = model.with_name("small.safetensors")
    report = compress(model, small, scale_dtype="float32", **options)
    found = compare(model, small)
    assert found.matching and not found.equal
    by_name = {d.name: d for d in found.differences}
    assert by_name["0.bias"].equal
    for tensor in report.tensors:
        if tensor.snr_db is not None:
            assert by_name[tensor.name].snr == pytest.approx(tensor.snr_db, rel=1e-12)  # order of sums
            assert by_name[tensor.name].worst == tensor.worst


def test_one_flipped_bit_of_a_code_is_seen(model: Path) -> None:
    small, flipped = model.with_name("small.safetensors"), model.with_name("flipped.safetensors")
    compress(model, small, bits=4)
    assert compare(small, small).equal
    data = bytearray(small.read_bytes())
    with open_checkpoint(small) as checkpoint:
        data[checkpoint.tensors["1.weight_packed"].offset] ^= 1
    flipped.write_bytes(data)
    assert [d.name for d in compare(small, flipped).differences if not d.equal] == ["1.weight"]


def test_instruction_sets_agree(model: Path) -> None:
    small = model.with_name("small.safetensors")
    compress(model, small, bits=4)
    found = []
    for isa in qt.isas():
        with qt.use_isa(isa):
            found.append(compare(model, small))
    assert all(each == found[0] for each in found)
