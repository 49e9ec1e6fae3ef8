"""What vLLM would do with our folders, by its documented rules of loading: it is not to be had on every machine.

Written from vLLM's guide to compressed-tensors and the rules of its `compressed_tensors` package: a layer is looked for
under the names of the file, several joined in one where they have the same inputs. Each linear layer must be on the
list `ignore` or be a target; what is joined must be of one scheme; codes are packed ones of 4 or 8 bits, with a scale
for each row or group.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_helpers import Arrays, save_folder, weights

from quantrim.files import open_checkpoint
from quantrim.model import compress
from quantrim.model.plan import tensor_planner as tensor_plan

JOINED = {
    "qkv_proj": ["q_proj", "k_proj", "v_proj"],
    "gate_up_proj": ["gate_proj", "up_proj"],
}
GROUPS = (-1, 32, 64, 128)  # of the kernels for packed weights
LAYERS = 2


def matches(name: str, target: str) -> bool:
    return bool(re.match(target[3:], name)) if target.startswith("re:") else target == name


def ignored(layer: str, ignore: list[str]) -> bool:
    """Whether a layer stays as floats. AssertionError where parts of a joined one differ."""
    found = {any(matches(part, each) for each in ignore) for part in parts_of(layer)}
    assert len(found) == 1, f"parts of {layer} differ in the list ignore"
    return found.pop()


def parts_of(layer: str) -> list[str]:
    parent, dot, last = layer.rpartition(".")
    return [f"{parent}{dot}{part}" for part in JOINED.get(last, [last])]


def scheme_of(layer: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """The weights' scheme of a linear layer; None where it stays as floats. AssertionError where vLLM ends."""
    if ignored(layer, config["ignore"]):
        return None
    found = []
    for part in parts_of(layer):
        groups = [g for g in config["config_groups"].values() if any(matches(part, each) for each in g["targets"])]
        assert groups, f"no target matches {part}"
        found.append(groups[0])
    assert all(group["weights"] == found[0]["weights"] for group in found), f"schemes differ within {layer}"
    scheme = found[0]["weights"]
    assert config["format"] == found[0]["format"] == "pack-quantized"
    assert scheme["num_bits"] in (4, 8) and scheme["strategy"] in ("group", "channel")
    assert (scheme["group_size"] or -1) in GROUPS and not scheme["dynamic"] and found[0]["input_activations"] is None
    return dict(scheme)


def attention(layer: str, hidden: int) -> Arrays:
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    return {f"{layer}.self_attn.{name}.weight": weights(hidden, hidden, seed=len(name)) for name in names}


def feed_forward(layer: str, hidden: int, inner: int) -> Arrays:
    return {
        f"{layer}.gate_proj.weight": weights(inner, hidden, seed=1),
        f"{layer}.up_proj.weight": weights(inner, hidden, seed=2),
        f"{layer}.down_proj.weight": weights(hidden, inner, seed=3),
    }


def causal_model(experts: int = 0, hidden: int = 128, inner: int = 192) -> Arrays:
    """A model as Llama, Qwen and their mixtures of experts are stored."""
    arrays: Arrays = {"model.embed_tokens.weight": weights(300, hidden)}
    for k in range(LAYERS):
        layer = f"model.layers.{k}"
        arrays |= attention(layer, hidden)
        if experts:
            arrays[f"{layer}.mlp.gate.weight"] = weights(64, hidden)
            for e in range(experts):
                arrays |= feed_forward(f"{layer}.mlp.experts.{e}", hidden, inner)
        else:
            arrays |= feed_forward(f"{layer}.mlp", hidden, inner)
        arrays[f"{layer}.input_layernorm.weight"] = np.ones(hidden, np.float32)
    return arrays | {"lm_head.weight": weights(300, hidden, seed=9)}


def layers_of_vllm(experts: int) -> list[str]:
    """Its linear layers and, of experts, the parts of one."""
    found = ["lm_head"]
    for k in range(LAYERS):
        layer = f"model.layers.{k}"
        found += [f"{layer}.self_attn.qkv_proj", f"{layer}.self_attn.o_proj"]
        found += [f"{layer}.mlp.gate"] if experts else [f"{layer}.mlp.gate_up_proj", f"{layer}.mlp.down_proj"]
        found += [f"{layer}.mlp.experts.{e}.{p}" for e in range(experts) for p in ("gate_proj", "up_proj", "down_proj")]
    return found


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
QWEN_MOE = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "tie_word_embeddings": False}


def check(source: Path, target: Path, experts: int, options: dict[str, Any]) -> None:
    compress(source, target, **options)
    config = json.loads((target / "config.json").read_text())["quantization_config"]
    with open_checkpoint(target) as checkpoint:
        names = set(checkpoint.tensors)
    schemes = {layer: scheme_of(layer, config) for layer in layers_of_vllm(experts)}
    for layer, scheme in schemes.items():
        for part in parts_of(layer):
            assert (f"{part}.weight" in names) == (scheme is None), part
            assert (f"{part}.weight_packed" in names) == (scheme is not None), part
    experts_of = [scheme for layer, scheme in schemes.items() if ".experts." in layer]
    assert all(scheme == experts_of[0] for scheme in experts_of)
    assert schemes["lm_head"] is None and any(schemes.values())
    assert "model.embed_tokens.weight" in names


OPTIONS: list[dict[str, Any]] = [{}, {"bits": 8}, {"symmetric": False, "reader": "vllm"}, {"group_size": 32}]
OPTIONS += [{"prune": "2:4", "bits": 4}, {"reader": "vllm"}]


@pytest.mark.promise("fault-A1", "fault-A3")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("experts", [0, 4])
def test_folders_follow_the_rules_of_vllm(tmp_path: Path, experts: int, options: dict[str, Any]) -> None:
    config = QWEN_MOE if experts else LLAMA
    source = save_folder(tmp_path / "m", causal_model(experts), 1, config)
    check(source, tmp_path / "out", experts, options)


def test_what_vllm_joins_is_kept_together(tmp_path: Path) -> None:
    """One of the joined matrices cannot be rounded: none is."""
    source = save_folder(tmp_path / "m", causal_model(), 1, LLAMA)
    check(source, tmp_path / "out", 0, {"exclude": "*.0.self_attn.k_proj.weight"})
    with open_checkpoint(tmp_path / "out") as checkpoint:
        stay = {name for name in checkpoint.tensors if "layers.0.self_attn" in name and name.endswith("proj.weight")}
    assert stay == {f"model.layers.0.self_attn.{each}_proj.weight" for each in "qkv"}


def test_groups_are_those_of_its_kernels(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "m", causal_model(hidden=144, inner=240), 1, LLAMA)
    check(source, tmp_path / "out", 0, {})


@pytest.mark.parametrize("bug", ["a part alone", "groups"])
def test_a_planted_bug_is_found(tmp_path: Path, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_folder(tmp_path / "m", causal_model(hidden=144, inner=240), 1, LLAMA)
    options: dict[str, Any] = {}
    if bug == "groups":
        monkeypatch.setattr(tensor_plan, "VLLM_GROUPS", (128, 64, 32, 16))
    else:
        monkeypatch.setattr(sys.modules["quantrim.model.plan.planner"], "partners", lambda modules: {})
        options = {"exclude": "*.0.self_attn.k_proj.weight"}
    with pytest.raises(AssertionError):
        check(source, tmp_path / "out", 0, options)


def test_bits_that_it_does_not_have(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "m", causal_model(), 1, LLAMA)
    with pytest.raises(ValueError, match=r"reader='vllm' needs bits of 4 or 8, not 3"):
        compress(source, tmp_path / "out", bits=3, reader="vllm")
    report = compress(source, tmp_path / "out", bits=3)
    assert any("vLLM opens codes of 4 and 8 bits alone" in note for note in report.notes)
