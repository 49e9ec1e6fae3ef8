"""The model that ships with quantrim, and the story that `quantrim demo` tells of it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import quantrim as qt
from quantrim import demo
from quantrim.demo import digits, network, recover
from quantrim.files import open_checkpoint

DATA = Path(demo.__file__).parent / "data"
EXAMPLES = Path(__file__).parent.parent / "examples"
SHA256 = {
    "digits.safetensors": "7472790b61ebe18fabd39d9cfbe4951330f7e1df43897bf38582676be89b4c5c",
    "held_out.safetensors": "9310b985e882bf73cad5d3fb5105127d26d45dde34c37e166b0efba7b537f9c4",
    "recovered.safetensors": "aa7d142662fc418e2b3ed15fe10f2f8fcaf9088a9210c2db1c59caa8068e3c99",
}
IMAGES = 360


@pytest.fixture(scope="module")
def rows() -> dict[str, demo.Row]:
    return {row.name: row for row in demo.run()}


def correct(row: demo.Row) -> int:
    return round(row.accuracy * IMAGES)


# The model


def test_the_files_are_those_that_were_trained_and_small() -> None:
    assert {name: hashlib.sha256(data).hexdigest() for name, data in contents(DATA).items()} == SHA256
    assert sum(map(len, contents(DATA).values())) < 300_000


@pytest.mark.slow
@pytest.mark.parametrize("script", [["train_digits.py"], ["recover_digits.py", "--seeds", "1"]], ids=lambda s: s[0])
def test_training_again_gives_the_same_bytes(script: list[str], tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn, which holds the images, is not installed")
    subprocess.run([sys.executable, EXAMPLES / script[0], *script[1:], "--output", tmp_path], check=True)
    made = contents(tmp_path)
    assert made and made.items() <= contents(DATA).items()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_network_and_its_images() -> None:
    images, labels = digits.held_out()
    assert images.shape == (IMAGES, 64) and images.dtype == np.uint8 and images.max() == digits.WHITE
    assert sorted(set(labels.tolist())) == list(range(10))
    with digits.model_file() as path, open_checkpoint(path) as checkpoint:
        shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    assert shapes == {
        "fc1.weight": (256, 64), "fc1.bias": (256,), "fc2.weight": (128, 256), "fc2.bias": (128,),
        "fc3.weight": (10, 128), "fc3.bias": (10,),
    }  # fmt: skip


def test_logits_are_those_of_the_network_written_out() -> None:
    with digits.model_file() as path:
        w = demo.decoded(path)
    x = np.arange(64, dtype=np.uint8)[None] % 17
    h = x.astype(np.float64) / 16
    for layer in (1, 2, 3):
        h = h @ w[f"fc{layer}.weight"].T.astype(np.float64) + w[f"fc{layer}.bias"]
        h = np.maximum(h, 0) if layer < 3 else h
    np.testing.assert_allclose(digits.logits(w, x), h, rtol=1e-4)  # sums of 256 float32 products


@pytest.mark.parametrize("damage", ["shuffled", "negated", "zero"])
def test_a_broken_network_is_seen_in_its_accuracy(damage: str) -> None:
    with digits.model_file() as path:
        w = demo.decoded(path)
    change: dict[str, Any] = {
        "shuffled": np.random.default_rng(0).permutation(w["fc2.weight"].reshape(-1)).reshape(128, 256),
        "negated": -w["fc2.weight"],
        "zero": np.zeros_like(w["fc2.weight"]),
    }
    assert digits.accuracy(w) > 0.98
    assert digits.accuracy({**w, "fc2.weight": change[damage]}) < 0.3


# The network after 80 % of it were pruned


def test_the_recovered_network_is_small_and_reads() -> None:
    """Four of five weights are 0, in the file too; what it cost to prune and round is won back."""
    with digits.model_file() as path:
        trained = demo.decoded(path)
    with digits.recovered_file() as path:
        row = demo.measure("recovered", path, 203_752)
    before = digits.accuracy(recover.small_form(trained, recover.masks_of(trained, 0.8), 4, 32))
    assert round(before * IMAGES) == 269 and correct(row) == 353
    assert row.zeros >= 0.8 and row.nbytes < 32_000 and row.weights == 50_432


@pytest.fixture(scope="module")
def trained() -> dict[str, NDArray[Any]]:
    with digits.model_file() as path:
        return demo.decoded(path)


@pytest.mark.parametrize("isa", qt.isas())
def test_recovery_keeps_to_the_mask_and_to_its_bits(trained: dict[str, NDArray[Any]], isa: str) -> None:
    """A short one, from the held-out images: everywhere the same, better than before, pruned as before."""
    images, _ = digits.held_out()
    masks = recover.masks_of(trained, 0.8)
    with qt.use_isa(isa):
        found = recover.recover(trained, images, sparsity=0.8, epochs=8, seed=3)
    assert {name: (p.shape, p.dtype) for name, p in found.items()} == {
        name: (trained[name].shape, np.float32) for name in recover.NAMES
    }
    for name, mask in masks.items():
        assert np.mean(mask) == pytest.approx(0.2, abs=1e-3) and not found[name][~mask].any()
    assert digits.accuracy(recover.small_form(found, masks, 4, 32)) > 0.9
    digest = hashlib.sha256(b"".join(found[name].tobytes() for name in recover.NAMES)).hexdigest()
    assert digest == "c5df86ad4bd52df8a8d3ee4572e3ea84f540f41a5a4d005b49aabcdc9a720a62"


def test_gradients_of_the_network_are_those_of_its_formula() -> None:
    """Against float64 without the grid, whose rounding is all that may differ."""
    rng = np.random.default_rng(0)
    layers = network.fresh_layers(rng, (7, 5, 3))
    x, error = rng.random((11, 7)), rng.standard_normal((11, 3))
    w1, b1, w2, b2 = layers
    hidden = np.maximum(x @ w1.T + b1, 0)
    back = error @ w2 * (hidden > 0)
    wanted = [back.T @ x / 11, back.sum(0) / 11, error.T @ hidden / 11, error.sum(0) / 11]
    values = network.forward(layers, x)
    rounding = 20 / network.GRID  # of sums of 11 products of values near 1
    np.testing.assert_allclose(values[-1], hidden @ w2.T + b2, atol=rounding)
    for found, want in zip(network.backward(layers, values, error), wanted, strict=True):
        np.testing.assert_allclose(found, want, atol=rounding)
    assert network.product(np.ones((1, 3)), np.full((3, 1), 2.0**-19)).tolist() == [[0]]  # the operands are rounded
    with pytest.raises(OverflowError, match=r"sums must stay below 2\*\*53 steps of the grid"):
        network.product(np.full((1, 4), 2.0**10), np.full((4, 1), 2.0**10))


# The story


def test_every_form_is_there_in_order(rows: dict[str, demo.Row]) -> None:
    assert list(rows) == [demo.ORIGINAL, *demo.VARIATIONS]


def test_what_it_costs_in_images(rows: dict[str, demo.Row]) -> None:
    reads = {name: correct(row) for name, row in rows.items()}
    assert reads[demo.ORIGINAL] == 355
    assert reads["int8"] >= 354 and reads["int4, groups of 32"] >= 352 and reads["pruned 50 %"] >= 352
    assert reads["pruned 50 % + int4"] >= 350
    assert 320 <= reads["pruned 2:4"] < reads["pruned 50 %"]  # a pattern costs more than a free choice


def test_what_it_saves_in_bytes(rows: dict[str, demo.Row]) -> None:
    size = rows[demo.ORIGINAL].nbytes
    assert size == (DATA / "digits.safetensors").stat().st_size == 203_752
    for name in ("pruned 50 %", "pruned 2:4"):
        assert size < rows[name].nbytes < size + 200  # its recipe stands in its metadata
    assert 3.5 < rows["int8"].ratio < 4 and 6 < rows["int4, groups of 32"].ratio < 7
    assert rows["int2, groups of 32"].ratio > 10
    assert rows["pruned 50 %"].zipped < 0.6 * rows[demo.ORIGINAL].zipped


def test_zeros_are_counted_exactly(rows: dict[str, demo.Row]) -> None:
    assert rows[demo.ORIGINAL].zeros == 0
    for name in ("pruned 50 %", "pruned 2:4"):
        assert rows[name].zeros == 0.5
    assert rows["pruned 50 % + int4"].zeros >= 0.5
    assert all(row.weights == 50_432 for row in rows.values())


@pytest.mark.parametrize("name", demo.VARIATIONS)
def test_the_files_hold_what_the_functions_give(name: str, tmp_path: Path) -> None:
    options = demo.VARIATIONS[name]
    target = tmp_path / "out.safetensors"
    with digits.model_file() as source:
        demo.write(source, target, options)
        weights = demo.decoded(source)
    found = demo.decoded(target)
    for layer in digits.LAYERS:
        np.testing.assert_array_equal(found[f"{layer}.weight"], by_hand(weights[f"{layer}.weight"], options))
        np.testing.assert_array_equal(found[f"{layer}.bias"], weights[f"{layer}.bias"])


def by_hand(w: NDArray[Any], options: dict[str, Any]) -> NDArray[Any]:
    """One matrix, pruned and rounded with the public functions, as float16 scales have it."""
    if "prune" in options:
        pattern = isinstance(options["prune"], str)
        w = qt.prune(w, **{"pattern" if pattern else "sparsity": options["prune"]})
    if options["bits"] is None:
        return w
    group, scale = options.get("group_size", "channel"), options.get("scale", "absmax")
    q = qt.quantize(w, options["bits"], group_size=group, scale=scale, scale_dtype="float16")
    return qt.dequantize(q, dtype=np.float16).astype(np.float32)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names: list[str] = []
    demo.run(names.append)
    assert names == list(demo.VARIATIONS)
    assert list(tmp_path.iterdir()) == []


def test_every_instruction_set_writes_the_same(rows: dict[str, demo.Row]) -> None:
    for isa in qt.isas():
        with qt.use_isa(isa):
            again = {row.name: (row.nbytes, row.zipped, row.zeros) for row in demo.run()}
        assert again == {name: (row.nbytes, row.zipped, row.zeros) for name, row in rows.items()}
