"""quantization_config: every module comes to its own scheme by the rules of its readers."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantrim.layouts.compressed_tensors import INT, PACKED, Scheme
from quantrim.layouts.compressed_tensors_config import (
    bits_for,
    is_embedding,
    quantization_config,
    reader_notes,
    usual_format,
)

FOUR = Scheme(4, 128, True, "float16")
EIGHT = Scheme(8, "channel", True, "float16", INT)
THREE = Scheme(3, 64, False, "bfloat16")
SCHEMES = (FOUR, EIGHT, THREE)


def names(target: str, module: str) -> bool:
    """How compressed-tensors and vLLM match a target that is no class name."""
    return bool(re.match(target[3:], module)) if target.startswith("re:") else target == module


def found_bits(config: dict[str, Any], module: str, kind: str) -> int | None:
    """The bits that a reader would give a module of class `kind`; None for one that it leaves alone."""
    if any(names(target, module) or target == kind for target in config["ignore"]):
        return None
    groups = config["config_groups"].values()
    for by_name in (True, False):  # names go before classes
        for group in groups:
            for target in group["targets"]:
                if names(target, module) if by_name else target == kind:
                    return int(group["weights"]["num_bits"])
    return None


def check(schemes: dict[str, Scheme], others: list[str], prefix: str = "") -> dict[str, Any]:
    config = quantization_config(schemes, others)
    for module, scheme in schemes.items():
        kind = "Embedding" if is_embedding(module) else "Linear"
        assert found_bits(config, prefix + module, kind) == scheme.bits, module
        if not prefix:
            assert scheme.bits in bits_for(config, module)
    for module in others:
        kind = "Embedding" if is_embedding(module) else "Linear"
        assert found_bits(config, prefix + module, kind) is None, module
    return config


def test_one_scheme_is_the_class_name() -> None:
    schemes = {f"model.layers.{k}.mlp.{name}": FOUR for k in range(3) for name in ("up", "down")}
    config = check(schemes, ["lm_head", "model.embed_tokens"])
    assert [group["targets"] for group in config["config_groups"].values()] == [["Linear"]]
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


def test_a_tied_head_is_ignored() -> None:
    config = check({"model.layers.0.up": FOUR, "model.embed_tokens": FOUR}, [])
    assert found_bits(config, "lm_head", "Linear") is None
    assert "lm_head" not in check({"model.up": FOUR, "lm_head": FOUR}, [])["ignore"]


def test_embeddings_are_named() -> None:
    config = check({"encoder.0.query": FOUR, "embeddings.word_embeddings": FOUR}, ["embeddings.position_embeddings"])
    targets = config["config_groups"]["group_0"]["targets"]
    assert targets == ["Linear", r"re:(.*\.)?embeddings\.word_embeddings$"]


def test_mixed_schemes_are_patterns_of_layers() -> None:
    schemes: dict[str, Scheme] = {f"model.layers.{k}.mlp.up": FOUR for k in range(100)}
    schemes |= {f"model.layers.{k}.mlp.down": THREE for k in range(100)}
    config = check(schemes | {"model.embed_tokens": EIGHT}, ["lm_head"])
    targets = [group["targets"] for group in config["config_groups"].values()]
    assert targets == [
        [r"re:(.*\.)?model\.layers\.\d+\.mlp\.up$"],
        [r"re:(.*\.)?model\.layers\.\d+\.mlp\.down$"],
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
def test_every_module_comes_to_its_scheme(modules: dict[str, Scheme | None]) -> None:
    schemes = {module: scheme for module, scheme in modules.items() if scheme}
    check(schemes, [module for module, scheme in modules.items() if not scheme])


def test_B47_patterns_of_strangers_take_no_time() -> None:
    group = {"targets": [r"re:(a+)+$"], "weights": {"num_bits": 4}}
    config = {"config_groups": {"group_0": group, "group_1": {"targets": ["b"], "weights": {"num_bits": 3}}}}
    begin = time.perf_counter()
    assert bits_for(config, "a" * 50 + "b") == {3, 4}
    assert time.perf_counter() - begin < 20  # or for ever
    assert bits_for(config, "b") == {3}


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
    assert bits_for(config, "x") == set()


def test_many_modules_in_little_time() -> None:
    schemes = {f"m{k}.layers.{k}.{'abc'[k % 3]}{k}": SCHEMES[k % 3] for k in range(20_000)}
    begin = time.perf_counter()
    config = quantization_config(schemes, ["x." * 10_000 + "y"])
    assert time.perf_counter() - begin < 60
    assert len(config["config_groups"]) == 3


def test_formats_and_notes_follow_the_readers() -> None:
    assert usual_format(8, "channel") == INT
    assert usual_format(8, 128) == PACKED
    assert usual_format(4, "channel") == PACKED
    assert reader_notes({"model.up": FOUR}) == []
    assert any("vLLM" in note for note in reader_notes({"model.embed_tokens": EIGHT}))
    assert any("dequantize=True" in note for note in reader_notes({"model.embed_tokens": FOUR}))
    assert any("4 and 8 bits" in note for note in reader_notes({"model.up": THREE}))
    assert any("4 and 8 bits" in note for note in reader_notes({"model.up": EIGHT}))
    assert any("one scheme" in note for note in reader_notes({"model.embed_tokens": FOUR, "up": EIGHT}))
