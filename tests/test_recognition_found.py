"""Whenever weights lie on a uniform grid it is found, whoever made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from functions import FLOATS, Array, bits_of
from model_helpers import save

import quantrim as qt
from quantrim import _core, reference
from quantrim.files import open_checkpoint
from quantrim.model import compress
from quantrim.model.streaming.tensors import logical_tensors

by_dtype = pytest.mark.parametrize("dtype", FLOATS.values(), ids=list(FLOATS))


def decoded(codes: Array, zero: Any, scale: Array, dtype: Any) -> Array:
    """What any reader makes of codes: (rows, groups, group) with a scale of each group, as (rows, cols)."""
    steps = (codes - zero).astype(np.float32)
    return (steps * scale).astype(dtype).reshape(len(codes), -1)


def random_codes(rng: np.random.Generator, shape: tuple[int, ...], bits: int, zero: Array) -> Array:
    """Many codes or few, or all of them a common factor from zero; some are zero."""
    codes = rng.integers(0, 2**bits, shape)
    kind = rng.integers(4)
    if kind == 1:
        codes = rng.choice(codes.reshape(-1)[:3], shape)
    if kind == 2:
        steps = codes - zero
        codes = zero + steps - np.sign(steps) * (np.abs(steps) % rng.integers(2, 22))
    return np.where(rng.random(shape) < rng.choice([0, 0.3, 0.9]), zero, codes)


def random_grid(rng: np.random.Generator) -> tuple[Array, int, int]:
    """Weights on a grid, its bits and its group size."""
    bits, group = int(rng.integers(2, 9)), int(rng.choice([16, 32, 64, 128]))
    dtype, scale_dtype = rng.choice(list(FLOATS.values()), 2)
    shape = int(rng.integers(1, 6)), int(rng.integers(1, 4)), group
    symmetric = rng.random() < 0.5
    zero = np.full((*shape[:2], 1), 2 ** (bits - 1)) if symmetric else rng.integers(0, 2**bits, (*shape[:2], 1))
    scale = np.exp(rng.uniform(np.log(1e-4), 0, zero.shape)).astype(np.float32).astype(scale_dtype).astype(np.float32)
    if rng.random() < 0.3:
        scale *= rng.choice(np.array([-1, 1], np.float32), scale.shape)
    return decoded(random_codes(rng, shape, bits, zero), zero, scale, dtype), bits, group


@pytest.mark.promise("fault-B5")
@pytest.mark.parametrize("seed", range(20))
def test_every_grid_is_found(seed: int) -> None:
    """Bits 2..8, groups 16..128, all dtypes of weights and scales, sparse or not: every bit comes back, and the
    codes have no more bits."""
    rng = np.random.default_rng([5, seed])
    for _ in range(100):
        w, bits, group = random_grid(rng)
        q = qt.recognize_grid(w, group_size=group)
        assert q is not None
        assert bits_of(q.dequantize(dtype=w.dtype)) == bits_of(w)
        assert q.bits <= bits or q.codebook is not None


@pytest.mark.promise("fault-B5")
def test_the_largest_common_scale_does_not_reproduce_every_bit() -> None:
    """63, 9, 42 are multiples of 3, but float32 has no 3 * scale that gives all three weights."""
    rng = np.random.default_rng(0)
    scales = rng.random(3000, np.float32) + np.float32(0.1)
    w = scales[:, None] * np.array([63, 9, 42, -63], np.float32)
    q = qt.recognize_grid(np.tile(w, 16), group_size=64)
    assert q is not None and bits_of(q.dequantize()) == bits_of(np.tile(w, 16))
    steps = q.codes().astype(int) if q.symmetric else q.codes().astype(int) - q.zero_points  # type: ignore[operator]
    assert {63, 21} == set(np.abs(steps).max(1).tolist()), "some rows need the divisor, others do not"


def test_the_kernel_is_its_reference_for_scales_of_any_size() -> None:
    """Subnormal weights and scales, ties of 16-bit floats, negative scales, weights that are on no grid."""
    rng = np.random.default_rng(1)
    for i in range(300):
        dtype = list(FLOATS.values())[i % 3]
        bits, least = int(rng.integers(2, 9)), 2.0**-23 if dtype == np.float16 or i % 2 else 2.0**-140
        scale = np.float32(np.exp(rng.uniform(np.log(least), np.log(4.0)))) * np.float32(rng.choice([-1, 1]))
        lowest = int(rng.integers(1 - 2**bits, 1))
        steps = rng.integers(lowest, lowest + 2**bits, (2, 40)) * (rng.random((2, 40)) < rng.choice([0.5, 1]))
        w = (steps.astype(np.float32) * scale).astype(dtype)
        w[0, 3] = 0.37 if i % 11 == 0 else w[0, 3]
        found = []
        for module in (_core, reference):
            parts = [np.full((2, 3), 7, t) for t in (np.float32, np.int32, np.int32)] + [np.full((2, 40), 7, np.uint8)]
            assert module.fit_grids(w, 16, *parts)  # type: ignore[attr-defined]
            found.append([bits_of(part) for part in parts])
        assert found[0] == found[1], (i, scale)


@by_dtype
def test_scales_are_the_shortest_that_do(dtype: Any) -> None:
    """A 16-bit weight leaves a range of scales: float16 ones are found where there are some, at half of the bytes."""
    scale = np.random.default_rng(2).random((64, 4, 1), np.float32).astype(np.float16).astype(np.float32)
    codes = np.random.default_rng(3).integers(0, 16, (64, 4, 32))
    q = qt.recognize_grid(decoded(codes, 8, scale, dtype), group_size=32)
    assert q is not None and q.symmetric and q.bits == 4
    assert np.array_equal(q.scales, q.scales.astype(np.float16).astype(np.float32))


# Minus zeros


@pytest.mark.promise("fault-B4")
@pytest.mark.interop
@by_dtype
@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q8_0", "TQ2_0"])
def test_what_gguf_dequantizes(tmp_path: Path, name: str, dtype: Any) -> None:
    """Negative scales, blocks of zeros, minus zeros: every bit in as many bits as GGUF itself needs."""
    quants = pytest.importorskip("gguf.quants")
    rng = np.random.default_rng(4)
    w = rng.standard_normal((64, 256), np.float32)
    w[3] = 0
    kind = quants.GGMLQuantizationType[name]
    w = quants.dequantize(quants.quantize(w, kind), kind).astype(np.float32).astype(dtype)
    assert name[0] == "T" or (np.signbit(w) & (w == 0)).any() == (name != "Q8_0")
    q = qt.recognize_grid(w, group_size=32)
    bits = {"Q4_0": 4, "Q5_0": 5, "Q8_0": 8, "TQ2_0": 2}[name]
    assert q is not None and (q.bits, q.symmetric) == (bits, True)
    assert bits_of(q.dequantize(dtype=dtype)) == bits_of(w)
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    report = compress(source, tmp_path / "t.safetensors", recognize=True, bits=2)
    assert report.tensors[0].label == f"int{bits} {'channel' if name[0] == 'T' else 'group 32'} symmetric"
    assert report.tensors[0].reason == "already quantized: no bit is changed"
    with open_checkpoint(tmp_path / "t.safetensors") as checkpoint:
        assert logical_tensors(checkpoint)["a.weight"].rows(0, 64).tobytes() == w.tobytes()


@pytest.mark.promise("fault-B4")
@by_dtype
def test_a_negative_scale_keeps_minus_zeros(dtype: Any) -> None:
    """ONNX's int4, scales of either sign."""
    scale = np.array([0.25, -0.375, -0.0, 0], np.float32)[:, None, None]
    codes = np.tile(np.arange(16), (4, 1, 2))
    w = decoded(codes, 8, scale, dtype)
    q = qt.recognize_grid(w, group_size=32)
    assert q is not None and q.symmetric and q.bits == 4
    assert np.signbit(q.scales[:2, 0]).tolist() == [False, True]
    with qt.use_isa("reference"):
        assert bits_of(q.dequantize(dtype=dtype)) == bits_of(w)


@pytest.mark.promise("fault-B5")
def test_masked_weights_with_zeros_of_both_signs(tmp_path: Path) -> None:
    """A mask makes -0 of negative weights; no scale gives both zeros, so -0 becomes 0, and that is said."""
    rng = np.random.default_rng(6)
    w = qt.quantize(rng.standard_normal((64, 64)).astype(np.float32), 4, group_size=32).dequantize()
    w *= rng.random(w.shape) < 0.3
    minus = int((np.signbit(w) & (w == 0)).sum())
    assert minus and qt.recognize_grid(w, group_size=32) is None
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    (tensor,) = compress(source, tmp_path / "t.safetensors", recognize=True).tensors
    assert tensor.label.startswith("int4 group 32")
    assert tensor.reason == f"already quantized: no bit is changed but the sign of {minus} minus zeros"
    with open_checkpoint(tmp_path / "t.safetensors") as checkpoint:
        assert logical_tensors(checkpoint)["a.weight"].rows(0, 64).tobytes() == (w + 0).tobytes()


# What is not recognized


@pytest.mark.promise("fault-B4", "fault-B5")
def test_what_was_scanned_in_vain_is_counted(tmp_path: Path) -> None:
    """In the report, whether it is rounded or copied then."""
    rng = np.random.default_rng(7)
    grid = qt.quantize(rng.standard_normal((64, 64)).astype(np.float32), 4, group_size=32).dequantize()
    others = {f"{name}.weight": rng.standard_normal((64, 64)).astype(np.float32) for name in "bc"}
    source = save(tmp_path / "m.safetensors", {"a.weight": grid, "bias": grid[0], **others})
    for options in ({}, {"bits": None}, {"codebook": "nf4"}, {"prune": 0.9}):
        report = compress(source, tmp_path / f"{len(options)}{list(options)}.safetensors", recognize=True, **options)  # type: ignore[arg-type]
        assert [note for note in report.notes if note.startswith("not recognized: 2 tensors are not quantized")]
    alone = save(tmp_path / "a.safetensors", {"a.weight": grid})
    report = compress(alone, tmp_path / "t.safetensors", recognize=True)
    assert not [note for note in report.notes if "not recognized" in note]


@pytest.mark.promise("fault-B5")
def test_a_grid_that_weights_are_rounded_to_is_not_one_that_they_were_on(tmp_path: Path) -> None:
    """Our own form of rounded codes, as of a convolution, is of the same kind as that of weights on a grid."""
    source, target = tmp_path / "m.safetensors", tmp_path / "t.safetensors"
    save(source, {"conv.weight": np.random.default_rng(0).standard_normal((32, 16, 3, 3)).astype(np.float32)})
    report = compress(source, target, recognize=True, bits=4)
    (tensor,) = report.tensors
    assert tensor.bits == 4 and tensor.snr_db is not None and 15 < tensor.snr_db < 30
    assert any(note.startswith("not recognized: 1 tensor is") for note in report.notes)


@pytest.mark.promise("fault-B5")
@pytest.mark.parametrize(
    "options", [{"bits": 4}, {"bits": 3, "symmetric": False}, {"bits": 8, "prune": "2:4"}], ids=str
)
def test_what_is_on_no_grid_is_rounded_to_one_of_its_own(tmp_path: Path, options: dict[str, Any]) -> None:
    """Weights of several dimensions are rounded into the form that weights on a grid have."""
    w = np.random.default_rng(8).standard_normal((64, 32, 3)).astype(np.float32)
    grid = qt.quantize(w.reshape(64, 96), 4).dequantize().reshape(w.shape)
    source = save(tmp_path / "m.safetensors", {"a.weight": w, "b.weight": grid})
    report = compress(source, tmp_path / "looked.safetensors", recognize=True, **options)
    assert [note for note in report.notes if note.startswith("not recognized: 1 tensor is not quantized")]
    compress(source, tmp_path / "rounded.safetensors", **options)
    with open_checkpoint(tmp_path / "looked.safetensors") as a, open_checkpoint(tmp_path / "rounded.safetensors") as b:
        looked, rounded = logical_tensors(a), logical_tensors(b)
        assert looked["a.weight"].rows(0, 64).tobytes() == rounded["a.weight"].rows(0, 64).tobytes()
        assert looked["b.weight"].rows(0, 64).tobytes() == grid.tobytes()


@pytest.mark.parametrize("group_size", [16, 4, "channel", "tensor"])
def test_values_that_a_grid_of_the_whole_tensor_holds(tmp_path: Path, group_size: int | str) -> None:
    """Groups of 16 do not divide 20 columns; the grid that all weights share is found nevertheless."""
    values = np.arange(19, dtype=np.float32) - 9
    w = np.random.default_rng(0).choice(values, (12, 20)).astype(np.float32)
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    compress(source, tmp_path / "t.safetensors", recognize=True, group_size=group_size, min_elements=0)  # type: ignore[arg-type]
    assert qt.compare(source, tmp_path / "t.safetensors").equal
