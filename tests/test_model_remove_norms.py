"""[[remove_units]]: what stands between layers and follows them, and how many units are left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_helpers import Arrays, assert_same_arrays, save, stored_tensors, weights

import quantrim as qt
from quantrim.model import compress

PARTS = ("weight", "bias", "running_mean", "running_var")
TABLE: dict[str, Any] = {"layers": ["fc1", "bn1", "fc2"], "sparsity": 0.5}


def model(*kernel: int, names: tuple[str, str, str] = ("fc1", "bn1", "fc2")) -> Arrays:
    first, norm, second = names
    arrays = {
        f"{first}.weight": weights(24, 10, *kernel),
        f"{first}.bias": weights(24, seed=1),
        f"{second}.weight": weights(7, 24, *kernel, seed=2),
        f"{norm}.num_batches_tracked": np.array(12, np.int64),
    }
    return arrays | {f"{norm}.{part}": weights(24, seed=3 + k) ** 2 for k, part in enumerate(PARTS)}


def removed(tmp_path: Path, arrays: Arrays, **table: Any) -> Arrays:
    source = save(tmp_path / "m.safetensors", arrays)
    recipe = {"bits": "none", "min_elements": 0, "remove_units": [TABLE | table]}
    compress(source, tmp_path / "t.safetensors", recipe=recipe, overwrite=True)
    return stored_tensors(tmp_path / "t.safetensors")


def smaller(arrays: Arrays, keep: Any, names: tuple[str, str, str] = ("fc1", "bn1", "fc2")) -> Arrays:
    first, norm, second = names
    rows = [f"{first}.weight", f"{first}.bias", *(f"{norm}.{part}" for part in PARTS)]
    weight = f"{second}.weight"
    return arrays | {name: arrays[name][keep] for name in rows if name in arrays} | {weight: arrays[weight][:, keep]}


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize("kernel", [(), (3, 3)], ids=["linear", "convolution"])
def test_a_batch_norm_follows(tmp_path: Path, kernel: tuple[int, ...]) -> None:
    """Its four tensors; its count of batches stays."""
    arrays = model(*kernel)
    keep = qt.prune_mask(qt.importance.l2(arrays["fc1.weight"].reshape(24, -1), axis=1), 0.5)
    assert_same_arrays(removed(tmp_path, arrays), smaller(arrays, keep))


@pytest.mark.promise("fault-D6")
def test_the_smaller_network_answers_as_the_whole_one_does_without_these_columns(tmp_path: Path) -> None:
    arrays = model()

    def run(p: Arrays, x: Any) -> Any:
        weight, bias, mean, var = (p[f"bn1.{part}"] for part in PARTS)
        h = (x @ p["fc1.weight"].T + p["fc1.bias"] - mean) / np.sqrt(var + 1e-5) * weight + bias
        return np.maximum(h, 0) @ p["fc2.weight"].T

    keep = qt.prune_mask(qt.importance.l2(arrays["fc1.weight"], axis=1), 0.5)
    cleared = arrays | {"fc2.weight": arrays["fc2.weight"] * keep}
    x = np.random.default_rng(0).standard_normal((20, 10)).astype(np.float32)
    np.testing.assert_allclose(run(removed(tmp_path, arrays), x), run(cleared, x), rtol=1e-4, atol=1e-4)


@pytest.mark.promise("fault-D6")
def test_a_layer_norm_and_one_of_gated_layers_follow(tmp_path: Path) -> None:
    arrays = model(names=("b.0.up", "b.0.norm", "b.0.down"))
    for part in ("running_mean", "running_var", "num_batches_tracked"):
        del arrays[f"b.0.norm.{part}"]
    arrays["b.0.gate.weight"] = weights(24, 10, seed=9)
    both = np.concatenate([arrays["b.0.gate.weight"], arrays["b.0.up.weight"]], axis=1)
    keep = qt.prune_mask(qt.importance.l2(both, axis=1), 0.5)
    found = removed(tmp_path, arrays, layers=[["b.*.gate", "b.*.up"], "b.*.norm", "b.*.down"])
    want = smaller(arrays, keep, ("b.0.up", "b.0.norm", "b.0.down"))
    assert_same_arrays(found, want | {"b.0.gate.weight": arrays["b.0.gate.weight"][keep]})


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize("part", PARTS)
def test_a_norm_that_is_not_named_is_refused(tmp_path: Path, part: str) -> None:
    """Or said to be elsewhere; nothing is written."""
    arrays = {name: a for name, a in model().items() if not name.startswith("bn1") or name == f"bn1.{part}"}
    told = f"tensor 'bn1.{part}' has a value for each of 24 units of 'fc1'.* name 'bn1' in layers, or in apart"
    with pytest.raises(ValueError, match=told):
        removed(tmp_path, arrays, layers=["fc1", "fc2"])
    assert not (tmp_path / "t.safetensors").exists()
    keep = qt.prune_mask(qt.importance.l2(arrays["fc1.weight"], axis=1), 0.5)
    found = removed(tmp_path, arrays, layers=["fc1", "fc2"], apart=["bn1"])
    assert_same_arrays(found, smaller(arrays, keep) | {f"bn1.{part}": arrays[f"bn1.{part}"]})


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize(("number", "seen"), [(1, True), (2, True), (5, False), (0, False)])
def test_of_numbered_modules_only_those_between_the_layers_are_meant(
    tmp_path: Path, number: int, seen: bool
) -> None:
    names = "net.0.fc" if number else "net.1.fc", f"net.{number}.norm", "net.4.fc"
    arrays = model(names=names)
    layers = [names[0], names[2]]
    if seen:
        with pytest.raises(ValueError, match=rf"name 'net\.{number}\.norm' in layers, or in apart"):
            removed(tmp_path, arrays, layers=layers)
    else:
        assert removed(tmp_path, arrays, layers=layers)[names[1] + ".weight"].shape == (24,)


@pytest.mark.promise("fault-D6")
def test_sizes_elsewhere_are_no_matter(tmp_path: Path) -> None:
    """Other sizes, other branches, biases of other layers, and modules that are named."""
    arrays = model() | {"fc3.weight": weights(24, 30), "fc3.bias": weights(24), "ln.weight": weights(7)}
    assert removed(tmp_path, arrays)["bn1.running_var"].shape == (12,)
    inner = {f"block.{name}": a for name, a in arrays.items()} | {"other.norm.weight": weights(24)}
    layers = [f"block.{name}" for name in TABLE["layers"]]
    assert removed(tmp_path, inner, layers=layers)["other.norm.weight"].shape == (24,)


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize(
    ("change", "table", "message"),
    [
        ({}, {"activation": "relu"}, "activation must not be given with 'bn1', which changes what units put out"),
        (
            {"bn1.weight": weights(23)},
            {},
            r"tensor 'bn1\.weight' must have a value for each of 24 units .*not shape \(23",
        ),
        ({}, {"layers": ["bn1", "fc1", "fc2"]}, r"'bn1\.(\w+)' must not be there|must be F32, F16, BF16 of \(out, in"),
        ({}, {"layers": ["fc1", "bn2", "fc2"]}, r"must have tensor 'bn2\.weight'"),
        ({}, {"apart": "bn1"}, "apart must be a list of module names, not 'bn1'"),
        ({}, {"apart": ["b.*"]}, r"layers must have as many \* in each name"),
        ({}, {"multiple_of": 0}, r"multiple_of must be an integer of 1\.\.2147483648, not 0"),
    ],
)
def test_what_cannot_follow(tmp_path: Path, change: Arrays, table: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        removed(tmp_path, model() | change, **table)


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize(
    ("sparsity", "multiple", "left"), [(0.5, 8, 16), (0.3, 8, 24), (0.5, 5, 15), (0.9, 16, 16), (0.7, 1, 7)]
)
def test_what_is_left_is_a_multiple(tmp_path: Path, sparsity: float, multiple: int, left: int) -> None:
    """Rounded up: those that go are the lowest all the same."""
    arrays = model()
    found = removed(tmp_path, arrays, sparsity=sparsity, multiple_of=multiple)
    scores = qt.importance.l2(arrays["fc1.weight"], axis=1)
    keep = np.zeros(24, bool)
    keep[np.argsort(scores, kind="stable")[24 - left :]] = True
    assert_same_arrays(found, smaller(arrays, keep))


@pytest.mark.promise("fault-D6")
def test_remove_units_of_arrays_takes_what_is_between() -> None:
    arrays = model()
    norm = tuple(arrays[f"bn1.{part}"] for part in PARTS)
    keep = np.arange(24) % 3 > 0
    layers = [(arrays["fc1.weight"], None), norm, (norm[0], None), (arrays["fc2.weight"], None)]
    found = qt.splitting.remove_units(layers, [keep])
    assert [len(entry) for entry in found] == [2, 4, 2, 2]
    for new, old in zip(found[1], norm, strict=True):
        assert new.tobytes() == old[keep].tobytes()
    assert found[2][1] is None and found[3][0].shape == (7, 16)
    with pytest.raises(ValueError, match=r"layers\[1\]\[0\] must have shape \(24,\), not \(23,\)"):
        qt.splitting.remove_units([layers[0], (norm[0][1:],), layers[3]], [keep])
    with pytest.raises(ValueError, match="activation must be None with arrays between layers"):
        qt.splitting.remove_units(layers, [keep], np.tanh)
