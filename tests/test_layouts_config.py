"""quantization_config: every module comes to its own scheme by the rules of its readers."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantrim.layouts.compressed_tensors import INT, PACKED, CompressedTensors
from quantrim.layouts.compressed_tensors_config import StatedBits, quantization_config, reader_notes

FOUR = CompressedTensors(4, 128, True, "float16")
EIGHT = CompressedTensors(8, "channel", True, "float16", INT)
THREE = CompressedTensors(3, 64, False, "bfloat16")
SCHEMES = (FOUR, EIGHT, THREE)


def names(target: str, module: str) -> bool:
    """How compressed-tensors and vLLM match a target that is no class name."""
    return bool(re.match(target[3:], module)) if target.startswith("re:") else target == module


def found_bits(config: dict[str, Any], module: str) -> int | None:
    """The bits that a reader would give a module; None for one that it leaves alone."""
    if any(names(target, module) for target in config["ignore"]):
        return None
    for group in config["config_groups"].values():
        if any(names(target, module) for target in group["targets"]):
            return int(group["weights"]["num_bits"])
    return None


def check(schemes: dict[str, CompressedTensors], others: list[str], prefix: str = "") -> dict[str, Any]:
    config = quantization_config(schemes, others)
    for module, scheme in schemes.items():
        assert found_bits(config, prefix + module) == scheme.bits, module
        if not prefix:
            assert scheme.bits in StatedBits(config).of(module)
    for module in others:
        assert found_bits(config, prefix + module) is None, module
    return config


@pytest.mark.promise("fault-A13")
def test_targets_name_modules_and_no_class() -> None:
    """A reader may add linear modules of its own, which the class name "Linear" would hit."""
    schemes = {f"model.layers.{k}.mlp.{name}": FOUR for k in range(3) for name in ("up", "down")}
    config = check(schemes, ["lm_head", "model.embed_tokens"])
    assert [group["targets"] for group in config["config_groups"].values()] == [
        [r"re:(.*\.)?layers\.\d+\.mlp\.up$", r"re:(.*\.)?layers\.\d+\.mlp\.down$"]
    ]
    assert found_bits(config, "score") is None and found_bits(config, "classifier.dense") is None
    assert config["format"] == PACKED and config["quant_method"] == "compressed-tensors"
    assert config["config_groups"]["group_0"]["weights"] == {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": 128,
        "num_bits": 4,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": "group",
        "symmetric": True,
        "type": "int",
    }


@pytest.mark.promise("fault-A9")
def test_modules_that_the_checkpoint_lacks_are_ignored() -> None:
    schemes = {"model.layers.0.up": FOUR, "model.layers.0.gate": FOUR}
    absent = ["lm_head", "cls.predictions.decoder", "blocks.*.gate", "up"]
    config = quantization_config(schemes, [], absent)
    for module in ("lm_head", "a.cls.predictions.decoder", "blocks.3.gate"):
        assert any(names(target, module) for target in config["ignore"]), module
    assert found_bits(config, "model.layers.0.up") == 4  # an end that a target has too is none to be ignored
    assert found_bits(config, "model.layers.0.gate") == 4


def test_mixed_layouts_are_patterns_of_layers() -> None:
    schemes: dict[str, CompressedTensors] = {f"model.layers.{k}.mlp.up": FOUR for k in range(100)}
    schemes |= {f"model.layers.{k}.mlp.down": THREE for k in range(100)}
    config = check(schemes | {"model.embed_tokens": EIGHT}, ["lm_head"])
    targets = [group["targets"] for group in config["config_groups"].values()]
    assert targets == [
        [r"re:(.*\.)?layers\.\d+\.mlp\.up$"],
        [r"re:(.*\.)?layers\.\d+\.mlp\.down$"],
        [r"re:(.*\.)?model\.embed_tokens$"],
    ]
    assert config["format"] == "mixed-precision"


def test_layers_that_differ_are_listed() -> None:
    check({"layers.0.up": FOUR, "layers.1.up": THREE, "layers.2.up": FOUR}, ["layers.3.up"])


def test_base_models_keep_their_names_under_a_head() -> None:
    schemes = {
        "encoder.0.query": FOUR,
        "encoder.1.query": FOUR,
        "encoder.0.key": THREE,
        "encoder.1.key": THREE,
    }
    check(schemes | {"embeddings.word_embeddings": EIGHT}, ["pooler.dense"], prefix="bert.")


PART = st.sampled_from(["a", "b", "layers", "0", "1", "17", "up", "embed_tokens", "wte", "x-y", "a+b", "(", "lm_head"])


@given(
    st.dictionaries(
        st.lists(PART, min_size=1, max_size=4).map(".".join),
        st.sampled_from([*SCHEMES, None]),
        min_size=1,
        max_size=12,
    )
)
def test_every_module_gets_its_layout(modules: dict[str, CompressedTensors | None]) -> None:
    schemes = {module: scheme for module, scheme in modules.items() if scheme}
    check(schemes, [module for module, scheme in modules.items() if not scheme])


@pytest.mark.promise("B47")
def test_patterns_of_strangers_take_no_time() -> None:
    group = {"targets": [r"re:(a+)+$"], "weights": {"num_bits": 4}}
    config = {"config_groups": {"group_0": group, "group_1": {"targets": ["b"], "weights": {"num_bits": 3}}}}
    begin = time.perf_counter()
    assert StatedBits(config).of("a" * 50 + "b") == {3, 4}
    assert time.perf_counter() - begin < 20  # or for ever
    assert StatedBits(config).of("b") == {3}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"config_groups": []},
        {"config_groups": {"a": 1, "b": {"weights": []}, "c": {"weights": {"num_bits": "4"}, "targets": 3}}},
        {"config_groups": {"a": {"weights": {"num_bits": 99}, "targets": ["x"]}}},
        {"config_groups": {"a": {"weights": {"num_bits": True}, "targets": ["x"]}}},
    ],
)
def test_configs_of_strangers_say_nothing(config: dict[str, Any]) -> None:
    assert StatedBits(config).of("x") == set()


def test_many_modules_in_little_time() -> None:
    schemes = {f"m{k}.layers.{k}.{'abc'[k % 3]}{k}": SCHEMES[k % 3] for k in range(20_000)}
    begin = time.perf_counter()
    config = quantization_config(schemes, ["x." * 10_000 + "y"])
    assert time.perf_counter() - begin < 60
    assert len(config["config_groups"]) == 3


def test_notes_follow_the_readers() -> None:
    assert reader_notes([FOUR]) == []
    assert any("4 and 8 bits" in note for note in reader_notes([THREE]))
    assert any("under the name of the weight" in note for note in reader_notes([EIGHT]))
