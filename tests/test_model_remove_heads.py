"""[[remove_units]] with head_dim: heads of attention, grouped queries too, and the numbers of config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_helpers import Arrays, assert_same_arrays, save, save_folder, stored_tensors, weights

import quantrim as qt
from quantrim.model import compress

BLOCKS = "model.layers.*.self_attn."
TABLE: dict[str, Any] = {
    "layers": [[BLOCKS + "q_proj", BLOCKS + "k_proj", BLOCKS + "v_proj"], BLOCKS + "o_proj"],
    "sparsity": 0.5,
    "head_dim": 8,
}
CONFIG = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 48}


def model(queries: int = 8, groups: int = 4, size: int = 8, biases: bool = True) -> Arrays:
    arrays = {}
    for block in range(2):
        for k, (name, heads) in enumerate({"q": queries, "k": groups, "v": groups}.items()):
            arrays[f"model.layers.{block}.self_attn.{name}_proj.weight"] = weights(heads * size, 48, seed=9 * block + k)
            if biases:
                arrays[f"model.layers.{block}.self_attn.{name}_proj.bias"] = weights(heads * size, seed=k)
        arrays[f"model.layers.{block}.self_attn.o_proj.weight"] = weights(48, queries * size, seed=9 * block + 5)
        arrays[f"model.layers.{block}.self_attn.q_norm.weight"] = weights(size)
    return arrays


def smaller(arrays: Arrays, groups: int = 4, sparsity: float = 0.5) -> Arrays:
    """The definition: of each block the groups of the lowest norm of all their rows."""
    found = dict(arrays)
    for block in range(2):
        module = f"model.layers.{block}.self_attn."
        parts = [arrays[f"{module}{name}_proj.weight"].reshape(groups, -1) for name in "qkv"]
        keep = qt.prune_mask(qt.importance.l2(np.concatenate(parts, axis=1), axis=1), sparsity)
        for name in "qkv":
            for part in ("weight", "bias"):
                old = arrays.get(f"{module}{name}_proj.{part}")
                if old is not None:
                    new = old.reshape(groups, -1, *old.shape[1:])[keep]
                    found[f"{module}{name}_proj.{part}"] = new.reshape(-1, *old.shape[1:])
        old = arrays[f"{module}o_proj.weight"].reshape(48, groups, -1)
        found[f"{module}o_proj.weight"] = old[:, keep].reshape(48, -1)
    return found


def removed(tmp_path: Path, arrays: Arrays, config: dict[str, Any], **table: Any) -> tuple[Arrays, dict[str, Any], str]:
    source = save_folder(tmp_path / "m", arrays, config=config)
    recipe = {"bits": "none", "min_elements": 0, "remove_units": [TABLE | table]}
    report = compress(source, tmp_path / "t", recipe=recipe)
    return (
        stored_tensors(tmp_path / "t"),
        json.loads((tmp_path / "t" / "config.json").read_text()),
        " ".join(report.notes),
    )


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(("queries", "groups"), [(8, 4), (8, 8), (8, 2), (12, 4)])
def test_heads_of_keys_go_with_their_queries(tmp_path: Path, queries: int, groups: int, biases: bool) -> None:
    arrays = model(queries, groups, biases=biases)
    config = CONFIG | {"num_attention_heads": queries, "num_key_value_heads": groups}
    found, after, notes = removed(tmp_path, arrays, config)
    assert_same_arrays(found, smaller(arrays, groups))
    assert after == config | {
        "num_attention_heads": queries // 2,
        "num_key_value_heads": groups // 2,
        "head_dim": 8,
    }
    assert f"in config.json num_attention_heads becomes {queries // 2}, not {queries}" in notes


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize(("sparsity", "multiple", "left"), [(0.6, 1, 2), (0.6, 2, 2), (0.3, 2, 4), (0.8, 1, 1)])
def test_multiples_of_heads(tmp_path: Path, sparsity: float, multiple: int, left: int) -> None:
    arrays = model()
    found, after, _ = removed(tmp_path, arrays, CONFIG, sparsity=sparsity, multiple_of=multiple)
    assert_same_arrays(found, smaller(arrays, 4, 1 - left / 4))
    assert after["num_key_value_heads"] == left and after["num_attention_heads"] == 2 * left


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": 3}, {"num_attention_heads": 4}, {"num_key_value_heads": None}], ids=str
)
def test_a_config_that_says_something_else_stays(tmp_path: Path, change: dict[str, Any]) -> None:
    found, after, notes = removed(tmp_path, model(), CONFIG | change)
    assert_same_arrays(found, smaller(model()))
    assert after == CONFIG | change and "config.json stays as it is" in notes


@pytest.mark.promise("fault-D6")
def test_a_config_without_head_dim_or_groups_stays(tmp_path: Path) -> None:
    """Its reader would divide hidden_size by the heads that are left."""
    config = {"num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64}
    _, after, notes = removed(tmp_path, model(8, 8), config)
    assert after == config and "config.json stays as it is" in notes


@pytest.mark.promise("fault-D6")
def test_neurons_and_heads_in_one_recipe(tmp_path: Path) -> None:
    arrays = model()
    for block in range(2):
        arrays[f"model.layers.{block}.mlp.up.weight"] = weights(96, 48)
        arrays[f"model.layers.{block}.mlp.down.weight"] = weights(48, 96)
    neurons = {"layers": ["model.layers.*.mlp.up", "model.layers.*.mlp.down"], "sparsity": 0.4, "multiple_of": 32}
    source = save_folder(tmp_path / "m", arrays, config=CONFIG | {"intermediate_size": 96})
    compress(
        source,
        tmp_path / "t",
        recipe={"bits": 4, "group_size": 32, "min_elements": 0, "remove_units": [TABLE, neurons]},
    )
    after = json.loads((tmp_path / "t" / "config.json").read_text())
    sizes = ("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    assert [after[key] for key in sizes] == [64, 4, 2, 8]


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["self_attn.v_proj", "self_attn.o_proj"],
            r"v_proj\.weight' must lose whole heads, .* not rows: give layers =",
        ),
        ([["self_attn.q_proj", "self_attn.k_proj"], "self_attn.o_proj"], r"q_proj\.weight' must lose whole heads"),
        (["attention.value", "attention.dense"], r"value\.weight' must lose whole heads"),
        (["SelfAttention.v", "SelfAttention.o"], r"v\.weight' must lose whole heads"),
    ],
)
def test_rows_of_attention_are_no_neurons(tmp_path: Path, names: list[Any], message: str) -> None:
    flat = [name for entry in names for name in ([entry] if isinstance(entry, str) else entry)]
    source = save(tmp_path / "m.safetensors", {f"{name}.weight": weights(16, 16) for name in flat})
    with pytest.raises(ValueError, match=message):
        compress(
            source,
            tmp_path / "t.safetensors",
            recipe={"bits": "none", "remove_units": [{"layers": names, "sparsity": 0.5}]},
        )
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"head_dim": 7}, r"q_proj\.weight' must have rows that are a multiple of head_dim, 7, not 64"),
        (
            {"head_dim": 16, "layers": [[BLOCKS + "q_proj", BLOCKS + "k_proj", BLOCKS + "q_norm"], BLOCKS + "o_proj"]},
            "must",
        ),
        (
            {"layers": [[BLOCKS + "k_proj", BLOCKS + "q_proj", BLOCKS + "v_proj"], BLOCKS + "o_proj"]},
            "4 of queries, 8 of keys",
        ),
        ({"layers": [BLOCKS + "v_proj", BLOCKS + "o_proj"]}, r"head_dim must be given with layers = \[\[queries"),
        ({"activation": "relu"}, "activation must not be given where modules share|head_dim must be given with"),
        ({"sparsity": 1.0}, r"q_proj\.weight' must keep a unit, not lose all 4"),
        ({"head_dim": 0}, "head_dim must be an integer of 1"),
    ],
)
def test_what_are_no_heads(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        removed(tmp_path, model(), CONFIG, **table)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize(
    ("name", "shape", "seen"),
    [
        ("self_attn.q_norm.weight", (96,), True),  # a norm over all heads, as in OLMo 2
        ("self_attn.k_norm.weight", (48,), True),
        ("self_attn.sinks", (8,), True),  # as in gpt-oss
        ("self_attn.bias.weight", (32, 8), True),  # of positions, as in T5
        ("self_attn.scale", (4, 1, 1), True),
        ("self_attn.q_norm.weight", (12,), False),  # of each head
        ("self_attn.o_proj.bias", (48,), False),
        ("self_attn.other.weight", (48, 96), False),
        ("norm.weight", (96,), False),
        ("self_attn2.norm.weight", (96,), False),
    ],
)
def test_what_else_has_a_value_for_each_head(tmp_path: Path, name: str, shape: tuple[int, ...], seen: bool) -> None:
    """Is refused, or said to be something else."""
    arrays = {k: a for k, a in model(size=12).items() if "q_norm" not in k}
    more = {f"model.layers.1.{name}": weights(*shape)}
    if seen:
        module = f"model.layers.1.{name}".rpartition(".")[0]
        with pytest.raises(ValueError, match=rf"must not have the size of 8 heads, 4 of keys, .* '{module}' in apart"):
            removed(tmp_path, arrays | more, CONFIG, head_dim=12)
        assert [path.name for path in tmp_path.iterdir()] == ["m"]
        (tmp_path / "again").mkdir()
        apart = [f"model.layers.*.{name}".rpartition(".")[0]]
        found, *_ = removed(tmp_path / "again", arrays | more, CONFIG, head_dim=12, apart=apart)
    else:
        found, *_ = removed(tmp_path, arrays | more, CONFIG, head_dim=12)
    assert_same_arrays(found, smaller(arrays) | more)


@pytest.mark.promise("fault-D6")
def test_given_scores_are_those_of_groups(tmp_path: Path) -> None:
    arrays = model()
    scores = {f"model.layers.{k}.self_attn.q_proj.weight": np.float32([4, 1, 3, 2]) for k in range(2)}
    data = save(tmp_path / "scores.safetensors", scores)
    found, _, _ = removed(tmp_path, arrays, CONFIG, score="given", data=str(data))
    for k in range(2):
        v = arrays[f"model.layers.{k}.self_attn.v_proj.weight"].reshape(4, 8, 48)
        assert found[f"model.layers.{k}.self_attn.v_proj.weight"].tobytes() == v[[0, 2]].tobytes()
