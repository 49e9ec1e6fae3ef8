"""The output of compress in the hands of its readers: safetensors, compressed-tensors, transformers.

They must give the bits of our own decoding, in the dtype in which they compute. QUANTRIM_MINILM names the
folder of a real model, all-MiniLM-L6-v2; without it only small models of random weights are read.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from model_helpers import save_folder, small_model
from numpy.typing import NDArray

import quantrim as qt
from quantrim.files import open_checkpoint
from quantrim.layouts import compressed_tensors as layout
from quantrim.model import LogicalTensor, Report, compress, logical_tensors
from quantrim.model.recipe import settings_of

REASON = "needs the extra 'interop': torch, compressed-tensors, safetensors"
torch = pytest.importorskip("torch", reason=REASON)
library = pytest.importorskip("compressed_tensors", reason=REASON)
safetensors_torch = pytest.importorskip("safetensors.torch", reason=REASON)

pytestmark = pytest.mark.interop

OPTIONS: dict[str, tuple[dict[str, Any], float]] = {  # with the size that the weights may have at most
    "int4": ({"bits": 4, "group_size": 32}, 13.2e6),
    "int8": ({"bits": 8}, 23.2e6),
    "int8 groups": ({"bits": 8, "group_size": 128, "scale_dtype": "float32"}, 24e6),
    "int4 asymmetric": ({"bits": 4, "group_size": 32, "symmetric": False}, 13.6e6),
    "int8 asymmetric": ({"bits": 8, "symmetric": False}, 23.3e6),
    "int3 asymmetric bfloat16": (
        {"bits": 3, "group_size": 64, "symmetric": False, "scale_dtype": "bfloat16"},
        10e6,
    ),
    "int4 bfloat16": ({"bits": 4, "group_size": 32, "scale_dtype": "bfloat16"}, 13.2e6),
    "int5 mse": ({"bits": 5, "scale": "mse"}, 16e6),
    "int4 mse": ({"bits": 4, "group_size": 32, "scale": "mse"}, 13.2e6),
    "int7 pruned": ({"bits": 7, "group_size": 16, "prune": 0.5, "storage": "dense"}, 23e6),
    "mixed": (
        {"recipe": {"bits": 4, "rule": [{"match": "*embed*", "bits": 8}, {"match": "*key*", "bits": 3}]}},
        18.2e6,
    ),
}


def for_any(options: dict[str, Any]) -> dict[str, Any]:
    """The options for quantrim alone, embeddings and all."""
    if "recipe" in options:
        return {"recipe": {"reader": "any", **options["recipe"]}}
    return {"reader": "any", **options}


@pytest.fixture(scope="module")
def minilm() -> Path:
    folder = os.environ.get("QUANTRIM_MINILM")
    if not folder:
        pytest.skip("needs QUANTRIM_MINILM, the folder of all-MiniLM-L6-v2")
    assert (Path(folder) / "model.safetensors").stat().st_size == 90868376
    return Path(folder)


def bits_of(tensor: Any) -> NDArray[Any]:
    """A torch tensor as the integers of its bits."""
    kind = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    return np.asarray(tensor.contiguous().view(kind).numpy())


def our_bits(weights: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(weights).view(f"i{weights.dtype.itemsize}")


def scheme_of(config: Any, module: str) -> tuple[Any, str]:
    """The scheme and format that the library finds for a module of the checkpoint."""
    from compressed_tensors.utils import match_targets

    kind = torch.nn.Embedding if "embed" in module else torch.nn.Linear
    targets = [target for group in config.config_groups.values() for target in group.targets]
    first = match_targets(module, kind(1, 1), targets)[0]
    group = next(group for group in config.config_groups.values() if first in group.targets)
    return group, str(group.format or config.format)


def ours(w: NDArray[Any], tensor: LogicalTensor, options: dict[str, Any]) -> NDArray[Any]:
    """What `quantize` and `dequantize` of the whole original matrix give, in the reader's dtype."""
    scheme = tensor.layout
    assert scheme is not None
    if "prune" in options:
        w = qt.prune(w, options["prune"])
    q = qt.quantize(
        w,
        scheme.bits,
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
        scale=settings_of(bits=scheme.bits, symmetric=scheme.symmetric, scale=options.get("scale")).scale_rule,
        scale_dtype=scheme.scale_dtype,
    )
    return qt.dequantize(q, dtype=tensor.dtype)


def check(source: Path, target: Path, options: dict[str, Any]) -> Report:
    """Compress a folder; decode it by the library, and require our own bits and the original names."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.utils import match_name

    report = compress(source, target, **options)
    config = QuantizationConfig.model_validate(json.loads((target / "config.json").read_text())["quantization_config"])
    stored: dict[str, Any] = {}
    for file in sorted(target.glob("*.safetensors")):
        stored |= safetensors_torch.load_file(file)
    with open_checkpoint(source) as before, open_checkpoint(target) as after:
        tensors = logical_tensors(after)
        assert set(tensors) == set(before.tensors)
        for name, tensor in tensors.items():
            module, _, part = name.rpartition(".")
            if not tensor.compressed:
                assert stored[name].shape == tensor.shape
                assert not tensor.shape or after.raw(name) == before.raw(name)
                if part == "weight" and len(tensor.shape) == 2:
                    assert any(match_name(module, each) for each in config.ignore or [])
                continue
            assert not any(match_name(module, each) for each in config.ignore or [])
            scheme, kind = scheme_of(config, module)
            parts = {k.removeprefix(f"{module}."): v for k, v in stored.items() if k.startswith(f"{module}.weight")}
            decoded = BaseCompressor.get_value_from_registry(kind).decompress(parts, scheme)["weight"]
            expected = ours(before.read(name), tensor, options)
            assert our_bits(tensor.rows(0, tensor.shape[0])).tobytes() == our_bits(expected).tobytes()
            assert str(decoded.dtype) == f"torch.{expected.dtype}"
            assert np.array_equal(bits_of(decoded), our_bits(expected)), name
    return report


@pytest.mark.parametrize("case", OPTIONS)
def test_minilm_decodes_to_our_bits(minilm: Path, tmp_path: Path, case: str) -> None:
    options, limit = OPTIONS[case]
    report = check(minilm, tmp_path / "out", for_any(options))
    assert (tmp_path / "out" / "model.safetensors").stat().st_size == report.stored_bytes < limit


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("case", OPTIONS)
def test_shards_of_every_dtype_decode_to_our_bits(tmp_path: Path, case: str, dtype: Any) -> None:
    options = OPTIONS[case][0]
    arrays = small_model(dtype) | {"model.layers.0.key.weight": small_model(dtype)["model.layers.0.up.weight"][::-1]}
    check(save_folder(tmp_path / "source", arrays), tmp_path / "out", options)


@pytest.mark.promise("fault-D11")
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_negative_scales_decode_to_our_bits(tmp_path: Path, bits: int, dtype: Any) -> None:
    """Codes -2**(bits-1) too, and zeros that become -0."""
    arrays = small_model(dtype)
    check(save_folder(tmp_path / "source", arrays), tmp_path / "out", {"bits": bits, "group_size": 32, "scale": "mse"})
    with open_checkpoint(tmp_path / "out") as checkpoint:
        tensors = [t for t in logical_tensors(checkpoint).values() if t.compressed]
        assert tensors
        for tensor in tensors:
            q = tensor.quantized_rows(0, tensor.shape[0])
            assert (q.scales.min() < 0 < q.scales.max()) and q.codes().min() == -(2 ** (bits - 1))


# transformers, through the library's ModelCompressor: whole models

# of what is for quantrim alone, embeddings too, transformers opens one scheme when it is asked to decode all at once
NEVER = {"mixed"}


def outputs(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.tensor([[101, 2023, 2003, 1037, 6251, 102]])).last_hidden_state


WAYS = [(case, False) for case in OPTIONS if OPTIONS[case][0].get("symmetric", True)]
WAYS += [(case, True) for case in OPTIONS if case not in NEVER]


@pytest.mark.parametrize("case,dequantize", WAYS)
def test_transformers_opens_minilm(minilm: Path, tmp_path: Path, case: str, dequantize: bool) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    target = tmp_path / "out"
    compress(minilm, target, **(for_any(OPTIONS[case][0]) if dequantize else OPTIONS[case][0]))
    how = {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library, about itself
        model = transformers.AutoModel.from_pretrained(target, **how)
        original = transformers.AutoModel.from_pretrained(minilm)
        found, wanted = outputs(model), outputs(original)
    assert torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.7
    state = model.state_dict()
    with open_checkpoint(target) as checkpoint:
        at_once = (checkpoint.config or {})["quantization_config"]["dequantize"]
        for name, tensor in logical_tensors(checkpoint).items():
            if tensor.compressed:
                reader = np.dtype(str(state[name].dtype).removeprefix("torch."))
                decoded = tensor.quantized_rows(0, tensor.shape[0]).dequantize(reader)
                if how or at_once:  # decoded in the dtype of the scales, widened after that
                    decoded = tensor.rows(0, tensor.shape[0]).astype(reader)
                assert np.array_equal(bits_of(state[name]), our_bits(decoded)), name


SENTENCES = [
    "The cat sleeps on the warm windowsill.",
    "A kitten naps in the sun by the window.",
    "Interest rates rose for the third time this year.",
]


@pytest.mark.promise("fault-C1")
@pytest.mark.parametrize(
    "options,limit,least",
    [
        ({"bits": 4}, 54.2e6, 0.94),
        ({"bits": 8}, 60e6, 0.998),
        ({"reader": "transformers"}, 13.2e6, 0.94),
        ({"reader": "transformers", "group_size": 32, "symmetric": False}, 13.5e6, 0.94),
        ({"reader": "transformers", "bits": 8}, 23.5e6, 0.998),
        ({"reader": "bitsandbytes"}, 55e6, 0.94),
        ({"bits": 4, "dtype": "float16"}, 31e6, 0.94),
    ],
    ids=str,
)
def test_sentence_transformers_opens_minilm(
    minilm: Path, tmp_path: Path, options: dict[str, Any], limit: float, least: float
) -> None:
    """At the first try, which goes around the hooks of the model; with its pooling, which is in a subfolder."""
    library = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    report = compress(minilm, tmp_path / "out", **options)
    assert report.stored_bytes < limit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(SENTENCES)
        wanted = library.SentenceTransformer(str(minilm), device="cpu").encode(SENTENCES)
    cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() > least
    assert found[0] @ found[1] > 2 * abs(found[0] @ found[2])


def test_transformers_opens_minilm_without_a_quarter_of_its_units(minilm: Path, tmp_path: Path) -> None:
    """It answers as the whole model does where the weights of these units are cleared."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    layers = ["encoder.layer.*.intermediate.dense", "encoder.layer.*.output.dense"]
    table = {"layers": layers, "sparsity": 0.25, "activation": "gelu"}
    report = compress(minilm, tmp_path / "out", recipe={"bits": "none", "remove_units": [table]})
    assert "intermediate_size becomes 1152, not 1536" in " ".join(report.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = outputs(transformers.AutoModel.from_pretrained(tmp_path / "out"))
        whole = transformers.AutoModel.from_pretrained(minilm)
    for layer in whole.encoder.layer:
        weight = layer.intermediate.dense.weight
        keep = qt.prune_mask(qt.importance.l2(weight.detach().numpy(), axis=1), 0.25)
        weight.data *= torch.tensor(keep)[:, None]
    assert torch.allclose(found, outputs(whole), atol=1e-4)  # sums of fewer terms, in float32


def test_the_comparison_sees_one_wrong_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: one bit of what is written."""
    real = layout._padded

    def wrong(data: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
        codes = real(data, width).copy()
        codes[-1, -1] ^= 0x10
        return codes

    monkeypatch.setattr(layout, "_padded", wrong)
    with pytest.raises(AssertionError):
        check(save_folder(tmp_path / "source", small_model()), tmp_path / "out", {"bits": 4})
