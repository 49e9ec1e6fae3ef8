"""What compress writes opens in transformers at the first try, with the outputs that the rounded weights imply: for
random-weight models of many architectures. Refusing before anything is written is fine; silently wrong is not."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantrim.files import open_checkpoint
from quantrim.model import compress, logical_tensors
from quantrim.model.plan.reader_modules import ReaderModules

pytestmark = pytest.mark.interop
REASON = "needs the extra 'interop': torch, transformers, compressed-tensors, bitsandbytes"
torch: Any = pytest.importorskip("torch", reason=REASON)
transformers: Any = pytest.importorskip("transformers", reason=REASON)
safetensors_torch: Any = pytest.importorskip("safetensors.torch", reason=REASON)

from reader_table import TABLE, family_of  # noqa: E402 (needs transformers)
from zoo import inputs_of, main_class, small_model  # noqa: E402

OPTIONS: dict[str, dict[str, Any]] = {
    "4 bits": {"bits": 4},
    "8 bits": {"bits": 8},
    "nf4": {"codebook": "nf4"},
    "2:4": {"prune": "2:4"},
    "2:4 and 4 bits": {"prune": "2:4", "bits": 4},
    "for transformers": {"bits": 4, "reader": "transformers"},
    "zero points": {"bits": 4, "symmetric": False, "group_size": 32},
    "mixed": {"recipe": {"reader": "transformers", "bits": 8, "rule": [{"match": "*.0.*", "bits": 4}]}},
}
FAMILIES = """
llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe deepseek_v3 gemma gemma2 gemma3_text phi phi3 gpt2
gpt_neo gpt_neox gptj opt bloom falcon mamba mamba2 bert roberta xlm-roberta deberta deberta-v2 distilbert
electra albert mpnet modernbert t5 mt5 bart mbart marian pegasus m2m_100 whisper vit clip siglip dinov2 deit
beit swin resnet convnext wav2vec2 hubert llava qwen2_vl paligemma blip olmo olmoe stablelm starcoder2
cohere granite granitemoe jamba codegen glm4 smollm3 layoutlm
"""
REFUSED = {  # options that we refuse, since nothing that they ask for would open
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "olmoe", "jamba"), ("zero points", "mixed")),
    **dict.fromkeys(("mamba", "swin", "resnet"), ("zero points",)),  # no one group divides all columns, or few rows
    "gpt2": tuple(name for name in OPTIONS if name != "2:4"),  # matrices are (in, out)
    "falcon": ("nf4",),  # its linear layers are of a class of its own
    "dinov2": tuple(name for name in OPTIONS if name not in ("nf4", "2:4")),  # its reader fails on any such folder
}


def source_of(model_type: str, folder: Path) -> Path:
    """A saved model of random weights."""
    target = folder / model_type
    if not target.exists():
        small_model(model_type).save_pretrained(target)
    return target


def opened(folder: Path, kind: type[Any], **how: Any) -> tuple[Any, list[str]]:
    """The model in a folder as its class opens it, and what was missing there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about themselves
        model, info = kind.from_pretrained(folder, output_loading_info=True, **how)
    return model.eval(), sorted(info["missing_keys"])


def decoded_folder(source: Path, compressed: Path, target: Path) -> Path:
    """The original folder with the weights that our codes stand for, in float32."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    tensors = {}
    with open_checkpoint(compressed) as checkpoint:
        modules = ReaderModules(checkpoint.config)
        at_once = (checkpoint.config or {}).get("quantization_config", {}).get("dequantize")
        for name, tensor in logical_tensors(checkpoint).items():
            # decoded in the dtype of the scales where that is done as a model is opened, else in that of the model
            early = at_once or modules.kind(name) == "expert"
            rows, exact = tensor.matrix_shape[0], tensor.layout.has_codes and not early
            values = tensor.quantized_rows(0, rows).dequantize(np.float32) if exact else tensor.rows(0, rows)
            tensors[name] = torch.from_numpy(
                np.ascontiguousarray(values.astype(np.float32) if tensor.compressed else values).reshape(tensor.shape)
            )
    safetensors_torch.save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def decode(model: Any) -> Any:
    """The model with floats in place of codes, decoded by the reader's own functions."""
    if hasattr(model, "ct_decompress_hook"):
        model.hf_quantizer.compressor.decompress_model(model)
    if getattr(model, "is_loaded_in_4bit", False):
        return model.dequantize(torch.float32)
    return model


def weights_of(model: Any) -> dict[str, Any]:
    """The parameters, without what described codes."""
    parts = ("weight_scale", "weight_zero_point", "weight_shape", "weight_packed")
    return {name: value for name, value in model.state_dict().items() if not name.endswith(parts)}


def outputs_of(model: Any, inputs: Mapping[str, Any]) -> list[Any]:
    with torch.no_grad():
        found = model(**inputs, return_dict=True)
    return list(_floats(found.to_tuple()))


def _floats(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _floats(value)


def check(model_type: str, options: dict[str, Any], folder: Path) -> str:
    """Compress a model and open it; "refused", or "opened", or what is wrong as an AssertionError."""
    source, kind = source_of(model_type, folder), main_class(model_type)
    target, plain = folder / "out", folder / "plain"
    for each in (target, plain):
        shutil.rmtree(each, ignore_errors=True)
    try:
        compress(source, target, **options)
    except ValueError as error:
        assert re.search("no tensor can be compressed|transformers opens rounded experts only", str(error))
        assert not target.exists()
        return "refused"
    reference, unknown = opened(decoded_folder(source, target, plain), kind)
    model, missing = opened(target, kind)
    assert missing == unknown
    inputs = inputs_of(reference)
    wanted = outputs_of(reference, inputs)
    assert wanted and all(torch.isfinite(each).all() for each in wanted)
    if "codebook" not in options:  # their product on a CPU is of bfloat16, where the processor has that
        same(outputs_of(model, inputs), wanted)
    model = decode(model)
    expected, weights = reference.state_dict(), weights_of(model)
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, expected[name]), name
    if options != {"prune": "2:4"}:
        assert_no_router_is_rounded(small_model(model_type), weights)
    same(outputs_of(model, inputs), wanted)
    return "opened"


def assert_no_router_is_rounded(original: Any, weights: Mapping[str, Any]) -> None:
    """What multiplies and is neither a linear layer nor an embedding of torch keeps every bit."""
    for name, module in original.named_modules():
        weight = getattr(module, "weight", None)
        plain = isinstance(module, (torch.nn.Linear, torch.nn.Embedding))
        if isinstance(weight, torch.Tensor) and weight.dim() == 2 and not plain:
            assert torch.equal(weights[f"{name}.weight"], weight), name


def same(found: list[Any], wanted: list[Any]) -> None:
    """Equal but for the order of sums."""
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


@pytest.mark.promise(
    "fault-A1", "fault-A2", "fault-A3", "fault-A4", "fault-A5", "fault-A6",
    "fault-A7", "fault-A8", "fault-A9", "fault-A10", "fault-A11", "fault-A12", "fault-A13",
)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("model_type", FAMILIES.split())
def test_opens_with_the_rounded_weights(model_type: str, options: str, tmp_path: Path) -> None:
    outcome = check(model_type, OPTIONS[options], tmp_path)
    assert (outcome == "refused") == (options in REFUSED.get(model_type, ()))


@pytest.mark.parametrize("model_type", FAMILIES.split())
def test_the_table_is_what_transformers_says(model_type: str) -> None:
    """`python tests/reader_table.py` makes it anew."""
    table = json.loads(TABLE.read_text())
    assert table["transformers"] == transformers.__version__
    row = table[table[model_type]] if isinstance(table[model_type], str) else table[model_type]
    assert {kind: " ".join(ends) for kind, ends in family_of(model_type).items()} == row


def test_a_rounded_router_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: a choice of ours that is wrong."""
    kind = ReaderModules.kind

    def wrong(self: ReaderModules, name: str) -> str:
        found = kind(self, name)
        return "linear" if found == "other" else found

    assert check("mixtral", {"bits": 4, "min_elements": 0}, tmp_path) == "opened"
    monkeypatch.setattr(ReaderModules, "kind", wrong)
    with pytest.raises(AssertionError):
        check("mixtral", {"bits": 4, "min_elements": 0}, tmp_path)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "mixtral"
