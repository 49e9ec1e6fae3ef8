"""Which tensors are rounded for which reader, how they are named for it, and what is said of the others.

The ids are those of faults met in real use; what readers make of the results is in tests/interop.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cli_helpers import run
from model_helpers import Arrays, save, save_folder, stored_tensors, weights

from quantrim.files import open_checkpoint
from quantrim.model import Plan, compress, decompress, logical_tensors, plan
from quantrim.model.plan.reader_modules import ReaderModules


def decoder(layers: int = 2) -> Arrays:
    arrays: Arrays = {"model.embed_tokens.weight": weights(300, 64)}
    for k in range(layers):
        names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")
        arrays |= {f"model.layers.{k}.{name}.weight": weights(64, 64, seed=len(name)) for name in names}
    return arrays


def llama(**more: Any) -> dict[str, Any]:
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **more}


def rounded(found: Plan) -> set[str]:
    return {t.name for t in found.tensors if t.bits is not None}


def kept(found: Plan) -> dict[str, str]:
    """Why tensors stay, by name."""
    return {t.name: t.reason for t in found.tensors if t.kept is not None}


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return found


@pytest.mark.promise("fault-A1")
def test_the_plain_command_rounds_linear_layers_alone(tmp_path: Path) -> None:
    arrays = decoder() | {"lm_head.weight": weights(300, 64, seed=9)}
    found = plan(save_folder(tmp_path / "m", arrays, 1, llama(tie_word_embeddings=False)))
    assert rounded(found) == {name for name in arrays if ".layers." in name}
    assert kept(found).keys() == {"model.embed_tokens.weight", "lm_head.weight"}
    assert any("embedding" in note and "reader='transformers' rounds it too" in note for note in found.notes)
    assert any("head" in note and "reader='any' rounds it too" in note for note in found.notes)


@pytest.mark.promise("fault-A2", "fault-A10")
@pytest.mark.parametrize("reader", [None, "transformers", "vllm"])
def test_a_tied_head_follows_its_embedding(tmp_path: Path, reader: str | None) -> None:
    source = save_folder(tmp_path / "m", decoder(), 1, llama(tie_word_embeddings=True))
    assert "model.embed_tokens.weight" in kept(plan(source, bits=8, reader=reader))


def test_one_layout_is_decoded_as_transformers_opens_it(tmp_path: Path) -> None:
    """Then embeddings and zero points open too; of several schemes it would take one for all."""
    arrays = decoder() | {"model.layers.0.mlp.up_proj.weight": weights(64, 192)}
    source = save_folder(tmp_path / "m", arrays, 1, llama(tie_word_embeddings=False))
    compress(source, tmp_path / "out", reader="transformers", symmetric=False)
    config = config_of(tmp_path / "out")
    assert config["dequantize"] and len(config["config_groups"]) == 1
    assert config["config_groups"]["group_0"]["weights"]["group_size"] == 32
    assert "model.embed_tokens.weight_packed" in stored_tensors(tmp_path / "out")
    recipe = {"reader": "transformers", "rule": [{"match": "*.0.self_attn.*", "bits": 8}]}
    compress(source, tmp_path / "mixed", recipe=recipe)
    config = config_of(tmp_path / "mixed")
    assert not config["dequantize"] and len(config["config_groups"]) > 1
    assert stored_tensors(tmp_path / "mixed")["model.embed_tokens.weight"].dtype == np.int8
    targets = [group["targets"] for group in config["config_groups"].values()]
    assert any(re.match(t[3:], "model.embed_tokens") for group in targets for t in group)


@pytest.mark.promise("fault-A3")
def test_routers_are_kept(tmp_path: Path) -> None:
    arrays = decoder()
    for k in range(2):
        arrays[f"model.layers.{k}.mlp.gate.weight"] = weights(64, 64)
        experts = [(e, each) for e in range(2) for each in ("gate_proj", "up_proj", "down_proj")]
        arrays |= {f"model.layers.{k}.mlp.experts.{e}.{each}.weight": weights(64, 64, seed=e) for e, each in experts}
    for model_type in ("qwen3_moe", "a_family_that_nobody_knows"):
        source = save_folder(tmp_path / model_type, arrays, 1, {"model_type": model_type})
        assert {name for name in kept(plan(source)) if "gate.weight" in name} == {
            f"model.layers.{k}.mlp.gate.weight" for k in range(2)
        }


@pytest.mark.promise("fault-A4")
def test_nf4_names_exactly_what_stays(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "m", decoder(), 1, llama())
    compress(source, tmp_path / "out", codebook="nf4")
    skipped = config_of(tmp_path / "out")["llm_int8_skip_modules"]
    assert {"model.embed_tokens", "lm_head"} <= set(skipped)
    names = {name.removesuffix(".weight") for name in stored_tensors(tmp_path / "out") if name.endswith(".weight")}
    coded = names - {"model.embed_tokens"}
    assert not any(module.endswith(skip) for skip in skipped for module in coded)
    compress(source, tmp_path / "default", reader="bitsandbytes")
    assert config_of(tmp_path / "default") == config_of(tmp_path / "out")


@pytest.mark.promise("fault-A5")
def test_transposed_layers_are_kept(tmp_path: Path) -> None:
    arrays = {"wte.weight": weights(300, 64), "h.0.mlp.c_fc.weight": weights(64, 256)}
    source = save_folder(tmp_path / "m", arrays, 1, {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    with pytest.raises(ValueError, match=r"stored as \(in, out\), which no reader opens compressed .*reader='any'"):
        compress(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert rounded(plan(source, reader="any")) == set(arrays)


@pytest.mark.promise("fault-A6")
def test_experts_in_one_tensor_stay_aloud_or_are_ours(tmp_path: Path) -> None:
    arrays = decoder() | {"model.layers.0.mlp.experts.gate_up_proj": weights(4, 256, 64)}
    source = save_folder(tmp_path / "m", arrays, 1, {"model_type": "qwen3_moe"})
    note = next(note for note in plan(source).notes if "262,144 bytes" in note)
    assert re.search(r"\([0-9]+ %\) stay in 1 tensor: weight that is no matrix .*reader='any' rounds it", note)
    compress(source, tmp_path / "any", reader="any")
    decompress(tmp_path / "any", tmp_path / "floats")
    found = stored_tensors(tmp_path / "floats")["model.layers.0.mlp.experts.gate_up_proj"]
    assert found.shape == (4, 256, 64) and not np.array_equal(found, arrays["model.layers.0.mlp.experts.gate_up_proj"])


@pytest.mark.promise("fault-A7")
@pytest.mark.parametrize("reader", [None, "transformers", "vllm", "any"])
@pytest.mark.parametrize("tied", [True, False])
def test_no_codes_under_a_plain_name_that_no_target_claims(
    tmp_path: Path, reader: str | None, tied: bool
) -> None:
    source = save_folder(tmp_path / "m", decoder(), 1, llama(tie_word_embeddings=tied))
    compress(source, tmp_path / "out", bits=8, reader=reader)
    groups = config_of(tmp_path / "out")["config_groups"].values()
    for name, array in stored_tensors(tmp_path / "out").items():
        if array.dtype == np.int8 and name.endswith(".weight"):
            module = name.removesuffix(".weight")
            claims = [g for g in groups if any(re.match(t[3:], module) for t in g["targets"])]
            assert len(claims) == 1 and claims[0]["format"] == "int-quantized"


SHAPES = {
    "fc.weight": (64, 128),  # decoded in the dtype of its scales
    "conv1.weight": (64, 16, 3, 3),
    "conv2.weight": (128, 64, 3),
    "up.weight": (32, 64, 2, 2),
    "rnn.weight_ih_l0": (256, 64),
    "rnn.weight_hh_l0_reverse": (256, 64),
    "attn.in_proj_weight": (192, 64),
    "experts": (4, 64, 64),
}


FORMS = [{"bits": 4}, {"bits": 8}, {"prune": 0.5}, {"prune": "2:4"}, {"clusters": 16}, {"codebook": "ternary"}]


@pytest.mark.promise("fault-A8")
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_weights_of_every_shape_and_name(tmp_path: Path, options: dict[str, Any]) -> None:
    arrays = {name: weights(*shape, seed=k) for k, (name, shape) in enumerate(SHAPES.items())}
    arrays |= {"rnn.bias_ih_l0": weights(256), "conv1.bias": weights(64)}
    source = save(tmp_path / "m.safetensors", arrays)
    compress(source, tmp_path / "out.safetensors", **options)
    with open_checkpoint(tmp_path / "out.safetensors") as checkpoint:
        tensors = logical_tensors(checkpoint)
        assert {name: t.shape for name, t in tensors.items()} == {name: a.shape for name, a in arrays.items()}
        found = {name: t.rows(0, t.matrix_shape[0]).reshape(t.shape) for name, t in tensors.items()}
    changed = {name for name in arrays if not np.array_equal(found[name], arrays[name])}
    assert changed == set(SHAPES)
    for name in SHAPES:
        left, right = found[name].astype(np.float64).reshape(-1), arrays[name].astype(np.float64).reshape(-1)
        assert left @ right / np.sqrt((left @ left) * (right @ right)) > 0.75, name


@pytest.mark.parametrize("options", [{"bits": 4}, {"codebook": "nf4"}, {"bits": 4, "prune": "2:4"}], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_simulated_values_are_those_of_the_codes(tmp_path: Path, dtype: Any, options: dict[str, Any]) -> None:
    arrays = {name: weights(*shape, seed=k).astype(dtype) for k, (name, shape) in enumerate(SHAPES.items())}
    source = save(tmp_path / "m.safetensors", arrays, {"format": "pt", "mine": "1"})
    compress(source, tmp_path / "codes.safetensors", **options)
    compress(source, tmp_path / "floats.safetensors", simulate=True, **options)
    with open_checkpoint(tmp_path / "floats.safetensors") as checkpoint:
        assert checkpoint.metadata["mine"] == "1" and "quantization_config" not in checkpoint.metadata
    found = stored_tensors(tmp_path / "floats.safetensors")
    assert {name: (a.dtype, a.shape) for name, a in found.items()} == {n: (a.dtype, a.shape) for n, a in arrays.items()}
    with open_checkpoint(tmp_path / "codes.safetensors") as checkpoint:
        for name, tensor in logical_tensors(checkpoint).items():
            wanted = tensor.rows(0, tensor.matrix_shape[0]).astype(dtype).reshape(tensor.shape)
            assert np.array_equal(found[name], wanted), name


@pytest.mark.promise("fault-A9", "fault-A13")
def test_heads_that_the_checkpoint_lacks_are_ignored(tmp_path: Path) -> None:
    arrays = {
        "bert.embeddings.word_embeddings.weight": weights(300, 64),
        "bert.encoder.layer.0.output.dense.weight": weights(64, 256),
    }
    source = save_folder(tmp_path / "m", arrays, 1, {"model_type": "bert", "architectures": ["BertForMaskedLM"]})
    compress(source, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert any(re.match(each[3:], "cls.predictions.decoder") for each in config["ignore"] if each.startswith("re:"))
    assert not any("Linear" in group["targets"] for group in config["config_groups"].values())


@pytest.mark.promise("fault-A11")
def test_experts_have_one_layout_that_opens(tmp_path: Path) -> None:
    arrays = decoder()
    for e in range(2):
        arrays |= {
            f"model.layers.0.mlp.experts.{e}.gate_proj.weight": weights(96, 64, seed=e),
            f"model.layers.0.mlp.experts.{e}.down_proj.weight": weights(64, 96, seed=e),
        }
    source = save_folder(tmp_path / "m", arrays, 1, {"model_type": "qwen3_moe"})
    for options in ({}, {"bits": 8}):
        compress(source, tmp_path / "out", overwrite=True, **options)  # type: ignore[arg-type]
        groups = list(config_of(tmp_path / "out")["config_groups"].values())
        of_experts = [any("experts" in target for target in group["targets"]) for group in groups]
        assert of_experts[0] and sum(of_experts) == 1  # the reader takes the first that speaks of them
        assert groups[0]["format"] == "pack-quantized"
    alike = "transformers opens rounded experts only where all of them have one scheme"
    for options in ({"symmetric": False, "bits": 8}, {"exclude": "*experts.1.*"}):  # type: ignore[assignment]
        with pytest.raises(ValueError, match=rf"{alike}.*experts.*reader='vllm'"):
            plan(source, reader="transformers", **options)  # type: ignore[arg-type]
    assert rounded(plan(source, reader="vllm", symmetric=False)) >= {name for name in arrays if "experts" in name}


def test_zero_points_are_written_where_readers_open_them(tmp_path: Path) -> None:
    """The library makes modules for packed codes with zero points that are not packed, into which none fit, unless it
    decodes all as it opens the model."""
    source = save_folder(tmp_path / "m", decoder(), 1, llama())
    assert len(rounded(plan(source, symmetric=False))) == 10
    rules = [{"match": "*.0.*", "bits": 8, "group_size": "channel"}]
    found = plan(source, recipe={"symmetric": False, "reader": "transformers", "rule": rules})
    why = "linear layer with zero points, which transformers does not open packed"
    assert {name for name, reason in kept(found).items() if reason == why} == {n for n in decoder() if "layers.1" in n}
    assert {t.runtime_layout.format for t in found.tensors if t.runtime_layout} == {"int-quantized"}
    assert len(rounded(plan(source, recipe={"symmetric": False, "reader": "vllm", "rule": rules}))) == 10


@pytest.mark.promise("fault-A12")
@pytest.mark.parametrize("model_type", ["opt", "bart", "whisper"])
def test_embeddings_of_special_classes_are_kept(tmp_path: Path, model_type: str) -> None:
    arrays = {
        "model.decoder.embed_positions.weight": weights(300, 64),
        "model.decoder.layers.0.fc1.weight": weights(64, 64),
    }
    source = save_folder(tmp_path / "m", arrays, 1, {"model_type": model_type})
    assert rounded(plan(source, bits=8, reader="transformers")) == {"model.decoder.layers.0.fc1.weight"}


@pytest.mark.promise("fault-A14")
def test_exclude_that_matches_nothing_is_a_note(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "m", decoder(), 1, llama())
    found = plan(source, exclude=["*embed*", "lm_head*"])
    assert "exclude='lm_head*' matched 0 tensors" in found.notes and rounded(found)
    said = run("compress", source, tmp_path / "out", "--exclude", "lm_head*")
    assert said.exit_code == 0 and "note: --exclude 'lm_head*' matched 0 tensors" in said.stdout
    for option in ("include", "drop"):
        with pytest.raises(ValueError, match=rf"^{option}='lm_head\*' matched 0 tensors$"):
            plan(source, **{option: "lm_head*"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rule 1, match 'lm_head\*', matched 0 tensors"):
        plan(source, recipe={"rule": [{"match": "lm_head*", "keep": True}]})


@pytest.mark.promise("fault-A14")
def test_what_is_advised_works_as_printed(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "m", decoder(), 1, llama(tie_word_embeddings=False))
    said = run("compress", source, tmp_path / "out").stdout
    advised = set(re.findall(r"--for [a-z]+", said))
    assert advised == {"--for transformers", "--for any"}
    for option in advised:
        done = run("compress", source, tmp_path / "again", *option.split(), "--overwrite", "--json")
        stored = {t["name"]: t["label"] for t in json.loads(done.stdout)["tensors"]}
        assert stored["model.embed_tokens.weight"].startswith("int")


def test_include_overrides_and_says_what_does_not_open(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "m", decoder(), 1, llama(tie_word_embeddings=True))
    found = plan(source, include=["*embed*", "*_proj*"])
    assert "model.embed_tokens.weight" in rounded(found)
    assert any("is rounded though not every reader opens that" in note for note in found.notes)


def test_a_family_that_nobody_knows_gets_what_is_certain(tmp_path: Path) -> None:
    arrays = decoder() | {"model.layers.0.strange.weight": weights(64, 64)}
    found = plan(save_folder(tmp_path / "m", arrays, 1, {"model_type": "nobody_knows", "architectures": ["X"]}))
    assert "model.layers.0.mlp.down_proj.weight" in rounded(found)
    assert {"model.layers.0.strange.weight", "model.embed_tokens.weight"} <= kept(found).keys()
    assert any("model type 'nobody_knows' of config.json is not known" in note for note in found.notes)


@pytest.mark.parametrize(
    "options,error",
    [
        ({"reader": "vllm", "codebook": "ternary"}, "reader='vllm' must not be given with codebook='ternary'"),
        ({"reader": "transformers", "clusters": 16}, "reader='transformers' must not be given with clusters"),
        ({"reader": "bitsandbytes", "bits": 4}, "reader='bitsandbytes' needs codebook='nf4' or 'fp4'"),
        ({"reader": "torch"}, "reader must be one of"),
        ({"dtype": "int8"}, "dtype must be one of"),
    ],
)
def test_what_a_reader_does_not_have(tmp_path: Path, options: dict[str, Any], error: str) -> None:
    source = save_folder(tmp_path / "m", decoder(), 1, llama())
    with pytest.raises(ValueError, match=error):
        plan(source, **options)


@pytest.mark.parametrize("dtype,stored", [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_what_stays_is_narrowed(tmp_path: Path, dtype: str, stored: Any) -> None:
    arrays = decoder() | {"model.norm.weight": weights(64), "model.steps": np.arange(3)}
    source = save_folder(tmp_path / "m", arrays, 1, llama())
    report = compress(source, tmp_path / "out", dtype=dtype)
    found = stored_tensors(tmp_path / "out")
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert np.array_equal(found[name], arrays[name].astype(stored))
        row = next(t for t in report.tensors if t.name == name)
        assert row.narrowed and row.snr_db is not None and row.snr_db > 40
    assert found["model.steps"].dtype == np.int64
    said = run("compress", source, tmp_path / "again", "--dtype", dtype).stdout
    assert "10 compressed, 2 narrowed, 1 copied" in said


def test_what_a_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    arrays = decoder() | {"model.norm.weight": np.full(64, 1e6, np.float32)}
    source = save_folder(tmp_path / "m", arrays, 1, llama())
    with pytest.raises(ValueError, match=r"model\.norm\.weight.*float16"):
        compress(source, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.promise("fault-D3")
def test_a_pattern_that_does_not_fit_one_layer(tmp_path: Path) -> None:
    arrays = {"a.weight": weights(100, 126), "b.weight": weights(100, 128)}
    source = save(tmp_path / "m.safetensors", arrays)
    report = compress(source, tmp_path / "out.safetensors", prune="2:4")
    assert np.array_equal(stored_tensors(tmp_path / "out.safetensors")["a.weight"], arrays["a.weight"])
    assert any("prune='2:4' needs columns that are a multiple of 4, not 126" in note for note in report.notes)
    with pytest.raises(ValueError, match=r"tensor 'a\.weight': prune='2:4' needs columns"):
        compress(source, tmp_path / "strict.safetensors", prune="2:4", strict=True)
    assert not (tmp_path / "strict.safetensors").exists()


@pytest.mark.promise("fault-D4")
def test_pruning_alone_keeps_the_dtype(tmp_path: Path) -> None:
    arrays = {"a.weight": weights(100, 64).astype(ml_dtypes.bfloat16)}
    source = save(tmp_path / "m.safetensors", arrays)
    report = compress(source, tmp_path / "out.safetensors", prune=0.5)
    found = stored_tensors(tmp_path / "out.safetensors")["a.weight"]
    assert found.dtype == ml_dtypes.bfloat16 and np.count_nonzero(found.astype(np.float32)) <= 3200
    assert any("zeros take as much room as other weights" in note for note in report.notes)
    assert [t.label for t in plan(source, prune=0.5, bits=4).tensors] == ["int4 group 32 symmetric, 50% pruned"]


def test_names_that_a_reader_changes_are_targets_too(tmp_path: Path) -> None:
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    module = "vit.encoder.layer.0.output.dense"
    assert ReaderModules(config).other_names([module, "vit.pooler.dense"]) == {module: "layers.0.mlp.fc2"}
    source = save_folder(tmp_path / "m", {f"{module}.weight": weights(64, 256)}, 1, config)
    compress(source, tmp_path / "out")
    (group,) = config_of(tmp_path / "out")["config_groups"].values()
    for name in (module, "vit.layers.0.mlp.fc2"):
        assert any(re.match(target[3:], name) for target in group["targets"]), name
