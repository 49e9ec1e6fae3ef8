"""[[remove_units]] of a recipe: what `remove_units` gives for whole layers, before they are pruned and rounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_helpers import Arrays, assert_same_arrays, save, save_folder, stored_tensors, weights

import quantrim as qt
from quantrim.demo import decoded, digits
from quantrim.model import Recipe, UnitRemoval, compress, plan
from quantrim.model.edit.remove_units import ACTIVATIONS
from quantrim.model.streaming import chunks

LAYERS = ("mlp.up", "mlp.mid", "mlp.down")


def model(dtype: Any = np.float32) -> Arrays:
    return {
        "mlp.up.weight": weights(120, 64, dtype=dtype),
        "mlp.up.bias": weights(120, dtype=dtype, seed=1),
        "mlp.mid.weight": weights(90, 120, dtype=dtype, seed=2),
        "mlp.mid.bias": weights(90, dtype=dtype, seed=3),
        "mlp.down.weight": weights(64, 90, dtype=dtype, seed=4),
        "mlp.down.bias": weights(64, dtype=dtype, seed=5),
        "other.weight": weights(64, 64, dtype=dtype, seed=6),
    }


def smaller(arrays: Arrays, score: str, activation: str | None, data: Arrays | None = None) -> Arrays:
    layers = [(arrays[f"{name}.weight"], arrays[f"{name}.bias"]) for name in LAYERS]
    keep = []
    for name, (w, _) in zip(LAYERS[:-1], layers, strict=False):
        scores = data[f"{name}.weight"] if data else getattr(qt.importance, score)(w, axis=1)
        keep.append(qt.prune_mask(scores, 0.4))
    act = None if activation is None else ACTIVATIONS[activation]
    found = qt.splitting.remove_units(layers, keep, act and (lambda b: act(b.astype(np.float64))))
    parts = {f"{name}.weight": w for name, (w, _) in zip(LAYERS, found, strict=True)}
    biases = {f"{name}.bias": b for name, (_, b) in zip(LAYERS, found, strict=True) if b is not None}
    return {**arrays, **parts, **biases}


def recipe(**more: Any) -> dict[str, Any]:
    table = {"layers": list(LAYERS), "sparsity": 0.4, **more.pop("table", {})}
    return {"bits": "none", "min_elements": 0, "remove_units": [table], **more}


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=str)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("score", ["l1", "l2"])
def test_what_is_left_of_the_layers(tmp_path: Path, dtype: Any, activation: str | None, score: str) -> None:
    arrays = model(dtype)
    source = save_folder(tmp_path / "m", arrays)
    table = {"score": score} | ({} if activation is None else {"activation": activation})
    wish = recipe(table=table)
    seen = plan(source, recipe=wish)
    report = compress(source, tmp_path / "t", recipe=wish)
    assert_same_arrays(stored_tensors(tmp_path / "t"), smaller(arrays, score, activation))
    rows = {t.name: t for t in report.tensors}
    assert rows["mlp.mid.weight"].shape == (54, 72) == {t.name: t for t in seen.tensors}["mlp.mid.weight"].shape
    assert rows["mlp.mid.weight"].reason.startswith("36 of 90 units removed, 48 inputs with them")
    assert rows["mlp.down.weight"].reason.startswith("36 inputs with them")
    assert "units are removed; config.json stays as it is" in " ".join(report.notes)
    assert seen.stored_bytes == report.stored_bytes < seen.source_bytes


def test_then_pruned_and_rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as compressing the smaller layers, whatever the chunks."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1000)
    arrays = model()
    options: dict[str, Any] = {"bits": 4, "group_size": 8, "prune": 0.5, "min_elements": 0}
    source = save(tmp_path / "m.safetensors", arrays)
    compress(source, tmp_path / "t.safetensors", recipe=recipe(**options))
    once = save(tmp_path / "o.safetensors", smaller(arrays, "l2", None))
    compress(once, tmp_path / "u.safetensors", **options)
    assert_same_arrays(stored_tensors(tmp_path / "t.safetensors"), stored_tensors(tmp_path / "u.safetensors"))


def test_given_scores(tmp_path: Path) -> None:
    arrays = model()
    data = {"mlp.up.weight": weights(120, seed=8), "mlp.mid.weight": weights(90, seed=9)}
    save(tmp_path / "scores.safetensors", data)
    path = tmp_path / "r.toml"
    table = f'layers = {list(LAYERS)}\nsparsity = 0.4\nscore = "given"\ndata = "scores.safetensors"\n'
    path.write_text(f'bits = "none"\n[[remove_units]]\n{table}')
    compress(save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors", recipe=path)
    assert_same_arrays(stored_tensors(tmp_path / "t.safetensors"), smaller(arrays, "given", None, data))


def test_the_network_answers_as_with_masked_units(tmp_path: Path) -> None:
    """The demo's network without a quarter of its units beside the same one with these units cleared."""
    table = {"layers": ["fc1", "fc2", "fc3"], "sparsity": 0.25, "activation": "relu"}
    with digits.model_file() as source:
        whole = decoded(source)
        compress(source, tmp_path / "t.safetensors", recipe={"bits": "none", "remove_units": [table]})
    small = decoded(tmp_path / "t.safetensors")

    def logits(p: Arrays, x: Any) -> Any:
        for name in ("fc1", "fc2"):
            x = np.maximum(x @ p[f"{name}.weight"].T + p[f"{name}.bias"], 0)
        return x @ p["fc3.weight"].T + p["fc3.bias"]

    masked = dict(whole)
    for name in ("fc1", "fc2"):
        keep = qt.prune_mask(qt.importance.l2(whole[f"{name}.weight"], axis=1), 0.25)
        masked[f"{name}.weight"] = whole[f"{name}.weight"] * keep[:, None]
    x = np.random.default_rng(0).random((50, 64)).astype(np.float32)
    assert np.abs(logits(small, x) - logits(masked, x)).max() < 1e-4  # sums of fewer terms, in float32


def gated(blocks: int = 2) -> Arrays:
    arrays: Arrays = {"embed.weight": weights(50, 32)}
    for k in range(blocks):
        for seed, (name, shape) in enumerate((("gate", (96, 32)), ("up", (96, 32)), ("down", (32, 96)))):
            arrays[f"blocks.{k}.mlp.{name}.weight"] = weights(*shape, seed=10 * k + seed)
    return arrays


GATED = {"layers": [["blocks.*.mlp.gate", "blocks.*.mlp.up"], "blocks.*.mlp.down"], "sparsity": 0.25}
CONFIG = {"intermediate_size": 96, "num_hidden_layers": 2, "hidden_size": 32}


def test_gated_layers_lose_units_in_every_block(tmp_path: Path) -> None:
    arrays = gated()
    source = save_folder(tmp_path / "m", arrays, config=CONFIG)
    report = compress(source, tmp_path / "t", recipe=recipe(table=GATED))
    found = stored_tensors(tmp_path / "t")
    want = dict(arrays)
    for k in range(2):
        gate, up, down = (f"blocks.{k}.mlp.{name}.weight" for name in ("gate", "up", "down"))
        keep = qt.prune_mask(qt.importance.l2(np.concatenate([arrays[gate], arrays[up]], axis=1), axis=1), 0.25)
        want |= {gate: arrays[gate][keep], up: arrays[up][keep], down: arrays[down][:, keep]}
    assert_same_arrays(found, want)
    assert json.loads((tmp_path / "t" / "config.json").read_text()) == {**CONFIG, "intermediate_size": 72}
    assert "in config.json intermediate_size becomes 72, not 96" in " ".join(report.notes)


@pytest.mark.parametrize("change", [{"num_hidden_layers": 3}, {"intermediate_size": 100}, {"ffn_dim": 96}], ids=str)
def test_a_config_that_may_mean_other_layers_stays(tmp_path: Path, change: dict[str, int]) -> None:
    source = save_folder(tmp_path / "m", gated(), config={**CONFIG, **change})
    report = compress(source, tmp_path / "t", recipe=recipe(table=GATED))
    assert (tmp_path / "t" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert "config.json stays as it is" in " ".join(report.notes)


@pytest.mark.parametrize("other", [0, 1])
def test_a_config_stays_where_blocks_are_not_alike(tmp_path: Path, other: int) -> None:
    arrays = gated()
    for name, shape in (("gate", (80, 32)), ("up", (80, 32)), ("down", (32, 80))):
        arrays[f"blocks.{other}.mlp.{name}.weight"] = weights(*shape)
    source = save_folder(tmp_path / "m", arrays, config=CONFIG)
    compress(source, tmp_path / "t", recipe=recipe(table=GATED))
    assert json.loads((tmp_path / "t" / "config.json").read_text()) == CONFIG


@pytest.mark.promise("B42")
@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"layers": [["a.*", "b"], "c.*"]}, r"layers must have as many \* in each name"),
        ({"layers": [["blocks.*.gate"], "blocks.*.down"]}, r"must have a module 'blocks\.\*\.gate' for remove_units"),
        ({"layers": [["blocks.0.mlp.gate", "embed"], "blocks.0.mlp.down"]}, r"as many units each .*, not \[96, 50\]"),
        ({"layers": [["blocks.0.mlp.gate", 3], "blocks.0.mlp.down"]}, "layers must be a list of module names"),
        ({"layers": [[], "blocks.0.mlp.down"]}, "layers must be a list of module names"),
        ({"activation": "silu"}, "activation must not be given where modules share their units"),
    ],
)
def test_units_that_cannot_be_shared(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    source = save(tmp_path / "m.safetensors", gated())
    with pytest.raises((ValueError, TypeError), match=message):
        compress(source, tmp_path / "t.safetensors", recipe=recipe(table=GATED | table))
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.promise("B42", "B47", "B48")
@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"layers": ["mlp.up"]}, r"remove_units 1: layers must be two different modules or more"),
        ({"layers": ["mlp.up", "mlp.up"]}, "layers must be two different modules"),
        ({"layers": "mlp.up"}, "layers must be a list of module names"),
        ({"layers": ["mlp.up", "mlp.no"]}, r"m\.safetensors' must have tensor 'mlp\.no\.weight'"),
        ({"layers": ["mlp.up", "mlp.down"]}, "must have an input for each of 120 units before it, not 90"),
        ({"layers": ["mlp.up.bias", "mlp.down"]}, r"must have tensor 'mlp\.up\.bias\.weight'"),
        ({"layers": ["mlp", "other"]}, r"must have tensor 'mlp\.weight'"),
        ({"sparsity": 1.0}, r"tensor 'mlp\.up\.weight' must keep a unit, not lose all 120"),
        ({"sparsity": 1.5}, r"remove_units 1: sparsity must be a number of 0\.0\.\.1\.0, not 1\.5"),
        ({"score": "l3"}, "score must be one of 'l1', 'l2', 'given', not 'l3'"),
        ({"score": "given"}, "data must be given with score='given'"),
        ({"data": "x"}, "data must not be given with score='l2'"),
        ({"activation": "sigmoid"}, "activation must be one of 'relu', 'gelu', 'silu', 'tanh', not 'sigmoid'"),
        (
            {"axis": 0},
            "remove_units 1 must have keys among layers, .*, head_dim, apart, not .axis",
        ),
    ],
)
def test_what_is_no_chain(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    source = save(tmp_path / "m.safetensors", model())
    with pytest.raises((ValueError, TypeError), match=message):
        compress(source, tmp_path / "t.safetensors", recipe=recipe(table=table))
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_layers_that_cannot_lose_units(tmp_path: Path) -> None:
    arrays = model()
    cases: list[tuple[Arrays, dict[str, Any], str]] = [
        ({"mlp.up.weight": np.full((120, 64), np.nan, np.float32)}, {}, "weights must be finite, not nan at flat"),
        ({"mlp.up.weight": np.zeros(120, np.float32)}, {}, r"must be F32, F16, BF16 of \(out, in, \.\.\.\) .* not F32"),
        ({"mlp.up.scale": np.zeros(1, np.float32)}, {}, r"'mlp\.up\.scale' must not be there"),
        ({"mlp.down.bias": None}, {"activation": "relu"}, r"'mlp\.down\.weight' needs a bias for what removed units"),
    ]
    for change, table, message in cases:
        changed = {name: a for name, a in {**arrays, **change}.items() if a is not None}
        source = save(tmp_path / "m.safetensors", changed)
        with pytest.raises(ValueError, match=message):
            compress(source, tmp_path / "t.safetensors", recipe=recipe(table=table))
    source = save(tmp_path / "m.safetensors", arrays)
    twice = recipe()
    with pytest.raises(ValueError, match="must be in one table of remove_units, not two"):
        plan(source, recipe={**twice, "remove_units": twice["remove_units"] * 2})


@pytest.mark.promise("B46")
def test_scores_that_do_not_fit(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", model())
    good = {"mlp.up.weight": weights(120), "mlp.mid.weight": weights(90)}
    nan = np.full(90, np.nan, np.float32)
    for change, message in [
        ({"mlp.up.weight": weights(64)}, r"tensor 'mlp\.up\.weight': must be scores of shape \(120,\)"),
        ({"mlp.mid.weight": nan}, r"d\.safetensors', tensor 'mlp\.mid\.weight', byte \d+: scores must be finite"),
    ]:
        data = save(tmp_path / "d.safetensors", {**good, **change})
        with pytest.raises(ValueError, match=message):
            plan(source, recipe=recipe(table={"score": "given", "data": str(data)}))
    save(tmp_path / "d.safetensors", {"mlp.up.weight": good["mlp.up.weight"]})
    with pytest.raises(ValueError, match=r"data must have a tensor 'mlp\.mid\.weight' of scores"):
        plan(source, recipe=recipe(table={"score": "given", "data": str(data)}))


TEXT = st.text(st.characters(exclude_characters="*"), min_size=1, max_size=9)
NAMES = st.lists(TEXT, min_size=2, max_size=4, unique=True)


@given(NAMES, st.floats(0, 1), st.sampled_from(["l1", "l2"]), st.sampled_from([None, *ACTIVATIONS]))
def test_a_recipe_reads_back(layers: list[str], sparsity: float, score: str, activation: str | None) -> None:
    removal = UnitRemoval(tuple(layers), sparsity, score, None, activation)
    wish = Recipe(remove_units=(removal, UnitRemoval(("a", "b"), 0.5, "given", "x")))
    assert Recipe.from_toml(wish.to_toml()) == wish
    assert Recipe.from_dict(wish.as_dict()) == wish
