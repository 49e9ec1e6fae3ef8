"""Source checkpoints of the golden tests: weights from integer hashes, so that no library's random stream changes them.

Headers are written here, not by quantrim, so that a change of its writer shows in results alone.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]

F16, F32, BF16 = np.float16, np.float32, ml_dtypes.bfloat16
FLOAT8, FLOAT8_WIDE = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
_DTYPES = {"F64": "f8", "F32": F32, "F16": F16, "BF16": BF16, "F8_E4M3": FLOAT8, "F8_E5M2": FLOAT8_WIDE}
_DTYPES |= {"I64": "i8", "I32": "i4", "I8": "i1", "U8": "u1", "BOOL": "?"}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


# Numbers


def words(name: str, count: int) -> NDArray[np.uint64]:
    """splitmix64 of a counter that begins at the CRC of a name."""
    x = np.arange(1, count + 1, dtype=np.uint64) + np.array(zlib.crc32(name.encode()) << 24, np.uint64)
    x *= np.array(0x9E3779B97F4A7C15, np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.array(shift, np.uint64))) * np.array(factor, np.uint64)
    mixed: NDArray[np.uint64] = x ^ (x >> np.array(31, np.uint64))
    return mixed


def integers(name: str, shape: tuple[int, ...], below: int) -> NDArray[np.int64]:
    """Integers of 0..below - 1."""
    return (words(name, math.prod(shape)) >> np.array(11, np.uint64)).astype(np.int64).reshape(shape) % below


def weights(name: str, *shape: int, dtype: DTypeLike = F32) -> Array:
    """Nearly normal weights of rows of different size, with outliers, ties and zeros; exact until they are cast."""
    count = math.prod(shape)
    fields = words(name, count)[:, None] >> np.array([0, 16, 32, 48], np.uint64) & np.array(0xFFFF, np.uint64)
    w = fields.astype(np.int64).sum(axis=1) - 2 * 0xFFFF
    kind = integers(f"{name} kinds", (count,), 128)
    w[kind == 0] *= 8
    w[kind % 25 == 1] = 0
    w[kind % 8 == 2] &= -(1 << 14)
    w = w.reshape(shape) * (1 + integers(f"{name} rows", (*shape[:-1], 1), 4)) if shape else w.reshape(())
    return (w.astype(F32) * F32(2.0**-21)).astype(dtype)


def scales(name: str, *shape: int, dtype: DTypeLike = F16) -> Array:
    """Positive scales of 1/64 to nearly 1/32, exact in each float dtype."""
    return ((64 + integers(name, shape, 64)).astype(F32) * F32(2.0**-12)).astype(dtype)


def raw(name: str, *shape: int, dtype: DTypeLike = np.uint8) -> Array:
    """Any bytes."""
    size = np.dtype(dtype).itemsize
    return integers(name, (math.prod(shape) * size,), 256).astype(np.uint8).view(dtype).reshape(shape)


def float8(name: str, *shape: int, dtype: DTypeLike = FLOAT8) -> Array:
    """Any float8 that is a number."""
    codes = raw(name, *shape)
    special = 0x7F if np.dtype(dtype) == FLOAT8 else 0x7C
    return np.where(codes & special == special, codes & 0xB5, codes).astype(np.uint8).view(dtype)


# Files


def write_file(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file, wide dtypes first."""
    ordered = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} if metadata is None else dict(metadata)}
    cursor = 0
    for name, array in ordered.items():
        begin, cursor = cursor, cursor + array.nbytes
        entry = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, cursor]}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in ordered.values()))


def write_folder(folder: Path, arrays: Mapping[str, Array], config: dict[str, Any], shards: int = 2) -> None:
    """A model folder with its index where there are several shards, and other files beside and below."""
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "tokenizer.json").write_bytes(b'{"never": "parsed"}\r\n')
    (folder / "1_Pooling" / "config.json").write_bytes(b'{"word_embedding_dimension": 32}')
    if shards == 1:
        write_file(folder / "model.safetensors", arrays)
        return
    where = {}
    for k in range(shards):
        name = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        held = list(arrays)[k * len(arrays) // shards : (k + 1) * len(arrays) // shards]
        write_file(folder / name, {tensor: arrays[tensor] for tensor in held})
        where |= dict.fromkeys(held, name)
    sizes = {"total_parameters": sum(a.size for a in arrays.values())}
    sizes["total_size"] = sum(a.nbytes for a in arrays.values())
    index = {"metadata": sizes, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


# Models


def mixed() -> Arrays:
    """Three dtypes, every kind of tensor, and shapes at the edges."""
    arrays: Arrays = {
        "model.embed_tokens.weight": weights("embed", 40, 64),
        "lm_head.weight": weights("head", 66, 64, dtype=F16),
        "conv.weight": weights("conv", 8, 3, 3, 3),
        "conv1d.weight": weights("conv1d", 6, 4, 5, dtype=F16),
        "experts.gate_up_proj": weights("experts", 3, 16, 32, dtype=BF16),
        "one_row.weight": weights("one row", 1, 64),
        "one_column.weight": weights("one column", 64, 1, dtype=F16),
        "odd.weight": weights("odd", 7, 37, dtype=BF16),
        "scalar": weights("scalar"),
        "empty.weight": np.zeros((0, 8), F16),
        "no_columns.weight": np.zeros((3, 0), F32),
        "zeros.weight": np.zeros((4, 64), F32),
        "tiny.weight": weights("tiny", 4, 64) * F32(2.0**-30),
        "positions": np.arange(7),
        "attention.mask": integers("mask", (3, 5), 2).astype(bool),
    }
    arrays["zeros.weight"][2, 40] = 0.5
    for k, dtype in enumerate((F32, F16, BF16)):
        layer = f"model.layers.{k}."
        arrays |= {
            f"{layer}self_attn.q_proj.weight": weights(f"{layer}q", 32, 64, dtype=dtype),
            f"{layer}mlp.up_proj.weight": weights(f"{layer}up", 24, 64, dtype=dtype),
            f"{layer}mlp.down_proj.weight": weights(f"{layer}down", 64, 24, dtype=dtype),
            f"{layer}mlp.up_proj.bias": weights(f"{layer}bias", 24, dtype=dtype),
            f"{layer}norm.weight": weights(f"{layer}norm", 64, dtype=dtype) + dtype(1),
        }
    return arrays


FEW = {"a.weight": (24, 64, F32), "b.weight": (16, 96, F16), "c.weight": (8, 128, BF16)}


def few() -> Arrays:
    """A matrix of each dtype."""
    found = {name: weights(name, rows, cols, dtype=dtype) for name, (rows, cols, dtype) in FEW.items()}
    return found | {"a.bias": weights("a.bias", 24)}


def double() -> Arrays:
    return {"a.weight": weights("double", 16, 64).astype(np.float64) * (1 + 2.0**-40), "a.bias": np.arange(16) / 7}


def alike() -> Arrays:
    """Small matrices of equal shapes, which are rounded in stacks."""
    found = {f"layers.{k}.weight": weights(f"alike {k}", 16, 32) for k in range(20)}
    return found | {f"others.{k}.weight": weights(f"others {k}", 8, 64, dtype=BF16) for k in range(6)}


def wide() -> Arrays:
    """More than a chunk each: of rows, and of a row."""
    return {
        "tall.weight": weights("tall", 3300, 160, dtype=BF16),
        "long.weight": weights("long", 2, 525_000, dtype=F16),
    }


def exact() -> Arrays:
    """What is quantized already: uniform grids and few values."""

    def grid(name: str, codes: Array, group: int, dtype: DTypeLike = F32) -> Array:
        rows, cols = codes.shape
        each = scales(name, rows, cols // group, 1, dtype=F16).astype(F32)
        return (codes.reshape(rows, -1, group).astype(F32) * each).astype(dtype).reshape(rows, cols)

    def of_codes(name: str, count: int, first: int) -> Array:
        return integers(name, (16, 64), count) + first

    table, minus = weights("table", 256), grid("minus", of_codes("minus", 15, -7), 32)
    return {
        "int4.weight": grid("int4", of_codes("int4", 15, -7), 32),
        "int3.weight": grid("int3", of_codes("int3", 7, -3), 16, BF16),
        "int8.weight": grid("int8", of_codes("int8", 255, -127), 64, F16),
        "shifted.weight": grid("shifted", of_codes("shifted", 16, -3), 32),
        "ternary.weight": grid("ternary", of_codes("ternary", 3, -1), 64),
        "signs.weight": (integers("signs", (16, 64), 2) * 2 - 1).astype(F32) * F32(0.25),
        "shared.weight": table[integers("shared", (16, 64), 16)],
        "bytes.weight": table[integers("bytes", (16, 64), 256)],
        "stack": grid("stack", of_codes("stack", 15, -7), 32).reshape(2, 8, 64),
        "minus.weight": np.where(minus == 0, F32(-0.0), minus),
        "none.weight": weights("none", 16, 64),
    }


def chain() -> Arrays:
    """Linear layers, one after another."""
    sizes = {"fc1": (24, 16), "fc2": (20, 24), "fc3": (8, 20)}
    found = {f"{name}.weight": weights(f"chain {name}", *shape) for name, shape in sizes.items()}
    found |= {f"{name}.bias": weights(f"chain {name} bias", shape[0]) for name, shape in sizes.items()}
    return found | {"norm.weight": weights("chain norm", 24)}


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "vocab_size": 48,
}


def llama() -> Arrays:
    found = {"model.embed_tokens.weight": weights("llama embed", 48, 32, dtype=BF16)}
    shapes = {"q": (32, 32), "k": (16, 32), "v": (16, 32), "o": (32, 32), "gate": (64, 32), "up": (64, 32)}
    shapes |= {"down": (32, 64)}
    for k in range(2):
        for name, shape in shapes.items():
            module = f"model.layers.{k}.{'self_attn' if len(name) == 1 else 'mlp'}.{name}_proj"
            found[f"{module}.weight"] = weights(module, *shape, dtype=BF16)
            if name in "qkv":
                found[f"{module}.bias"] = weights(f"{module}.bias", shape[0], dtype=BF16)
        found[f"model.layers.{k}.input_layernorm.weight"] = np.ones(32, BF16)
    return found | {"model.norm.weight": np.ones(32, BF16), "lm_head.weight": weights("head", 48, 32, dtype=BF16)}


MIXTRAL = LLAMA | {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 2}


def mixtral() -> Arrays:
    found = {name: array.astype(F16) for name, array in llama().items() if ".mlp." not in name and ".1." not in name}
    moe = "model.layers.0.block_sparse_moe"
    found[f"{moe}.gate.weight"] = weights("gate", 2, 32, dtype=F16)
    for k in range(2):
        for name, shape in (("w1", (64, 32)), ("w2", (32, 64)), ("w3", (64, 32))):
            found[f"{moe}.experts.{k}.{name}.weight"] = weights(f"expert {k} {name}", *shape, dtype=F16)
    return found


# Data that scores are computed from


def score_data(score: str) -> Arrays:
    found = {}
    for name, (rows, cols, _) in FEW.items():
        w = weights(f"{score} {name}", *((cols,) if score == "wanda" else (rows, cols)))
        found[name] = np.abs(w) if score in ("wanda", "fisher") else w
    return found


def row_scores() -> Arrays:
    return {name: weights(f"rows {name}", rows) for name, (rows, _, _) in FEW.items()}


def column_scores() -> Arrays:
    return {name: weights(f"columns {name}", cols) for name, (_, cols, _) in FEW.items()}


def unit_scores() -> Arrays:
    return {"fc1.weight": weights("units 1", 24), "fc2.weight": weights("units 2", 20)}


# What other programs write


def packed() -> Arrays:
    """Integers of compressed-tensors: 1..8 bits, symmetric or not, in groups, channels, tensors and by g_idx."""
    found: Arrays = {}

    def add(name: str, bits: int, groups: int, *stack: int, shape: tuple[int, int] = (12, 64)) -> None:
        rows, cols = shape
        found[f"{name}.weight_packed"] = raw(name, *stack, rows, -(-cols * bits // 32), dtype=np.int32)
        found[f"{name}.weight_scale"] = scales(name, *stack, rows, groups)
        found[f"{name}.weight_shape"] = np.array([*stack, rows, cols])

    for bits in range(1, 9):
        add(f"symmetric{bits}", bits, 2)
        add(f"asymmetric{bits}", bits, 4)
        words_of_rows = -(-12 * bits // 32)
        zeros = raw(f"zeros{bits}", words_of_rows, 4, dtype=np.int32)
        found[f"asymmetric{bits}.weight_zero_point"] = zeros
    add("channel", 4, 1)
    add("stack", 4, 2, 3)
    add("tensor", 4, 1)
    found["tensor.weight_scale"] = scales("tensor", 1, dtype=BF16)
    add("shifted_stack", 4, 2, 3)
    found["shifted_stack.weight_zero_point"] = raw("stack zeros", 3, 2, 2, dtype=np.int32)
    add("stack_tensor", 4, 1, 3)
    found["stack_tensor.weight_scale"] = scales("stack tensor", 1)
    for name, groups in (("ordered", integers("ordered", (64,), 4)), ("in_order", np.full(64, -1))):
        add(name, 4, 4)
        found[f"{name}.weight_g_idx"] = groups.astype(np.int32)
        found[f"{name}.weight_zero_point"] = raw(f"{name} zeros", 2, 4, dtype=np.int32)
    for name, shape in (("int8", (12, 1)), ("int8_groups", (12, 4)), ("int8_tensor", (1,))):
        found[f"{name}.weight"] = raw(name, 12, 64, dtype=np.int8)
        found[f"{name}.weight_scale"] = scales(name, *shape, dtype=F32)
    found["int8.weight_zero_point"] = raw("int8 zeros", 12, 1, dtype=np.int8)
    return found


def floats8() -> Arrays:
    """FP8, NVFP4, MXFP4 and MXFP6, as compressed-tensors and DeepSeek write them."""
    found: Arrays = {}
    for name, dtype, shape in (("channel", FLOAT8, (16, 1)), ("tensor", FLOAT8, (1,)), ("e5m2", FLOAT8_WIDE, (16, 1))):
        found[f"{name}.weight"] = float8(name, 16, 64, dtype=dtype)
        found[f"{name}.weight_scale"] = scales(name, *shape, dtype=BF16)
    found |= {"inverse.weight": float8("inverse", 16, 64), "inverse.weight_scale_inv": scales("i", 2, 4, dtype=F32)}
    found |= {"edges.weight": float8("edges", 130, 140), "edges.weight_scale_inv": scales("e", 2, 2, dtype=F32)}
    found["channel.input_scale"] = scales("input", 1, dtype=F32)
    nvfp4 = {"weight_packed": raw("nvfp4", 16, 32), "weight_scale": float8("nvfp4 scales", 16, 4)}
    nvfp4["weight_scale"] = (nvfp4["weight_scale"].view(np.uint8) & 0x7F).view(FLOAT8)
    nvfp4["weight_global_scale"] = np.array([448.0], F32)
    mxfp4 = {"weight_packed": raw("mxfp4", 16, 32), "weight_scale": (110 + raw("mxfp4 scales", 16, 2) % 20)}
    mxfp6 = {"weight_packed": raw("mxfp6", 16, 48), "weight_scale": (110 + raw("mxfp6 scales", 16, 2) % 20)}
    for module, each in (("nvfp4", nvfp4), ("mxfp4", mxfp4), ("mxfp6", mxfp6)):
        found |= {f"{module}.{name}": array for name, array in each.items()}
    return found


def masked() -> Arrays:
    """sparse-bitmask and sparse-24-bitmask of compressed-tensors, of floats and of codes."""
    found: Arrays = {}

    def add(name: str, w: Array, half: bool) -> None:
        mask = np.tile([True, False, False, True], (len(w), w.shape[1] // 4)) if half else w.view(f"u{w.itemsize}") != 0
        counts = mask.sum(axis=1)
        found[f"{name}.bitmask"] = np.packbits(mask, axis=1, bitorder="little")
        found[f"{name}.compressed"] = w[mask].reshape((len(w), -1) if half else -1)
        found[f"{name}.shape"] = np.array(w.shape).reshape((2, 1) if half else 2)
        if not half:
            found[f"{name}.row_offsets"] = np.cumsum(counts) - counts

    for half in (False, True):
        end = "24" if half else ""
        for dtype in (F32, F16, BF16):
            add(f"{np.dtype(dtype).name}{end}", weights(f"masked {end}", 11, 52, dtype=dtype), half)
        add(f"int8{end}", integers("masked int8", (11, 52), 5).astype(np.int8) - np.int8(2), half)
        add(f"float8{end}", float8(f"masked float8{end}", 11, 52), half)
        for name in ("int8", "float8"):
            found[f"{name}{end}.weight_scale"] = scales(name, 11, 1)
    return found


def bitsandbytes() -> Arrays:
    """NF4 and FP4 in flat blocks, scales that are codes themselves, and LLM.int8()."""
    found: Arrays = {}

    def add(name: str, kind: str, shape: tuple[int, ...], block: int, nested: int = 0) -> None:
        size = math.prod(shape)
        blocks = -(-size // block)
        state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": list(shape)}
        weight = f"{name}.weight"
        found[weight] = raw(name, -(-size // 2), 1)
        found[f"{weight}.quant_map"] = np.sort(weights(f"{kind} map", 16))
        found[f"{weight}.absmax"] = scales(f"{name} absmax", blocks, dtype=F32)
        if nested:
            state |= {"nested_blocksize": nested, "nested_dtype": "float32", "nested_offset": 0.03125}
            found[f"{weight}.absmax"] = raw(f"{name} absmax", blocks)
            found[f"{weight}.nested_absmax"] = scales(f"{name} nested", -(-blocks // nested), dtype=F32)
            found[f"{weight}.nested_quant_map"] = np.arange(256, dtype=F32) / 256
        text = json.dumps(state).encode()
        found[f"{weight}.quant_state.bitsandbytes__{kind}"] = np.frombuffer(text, np.uint8)

    add("plain", "nf4", (12, 64), 64)
    add("flat", "fp4", (7, 37), 64)
    add("cube", "nf4", (2, 5, 48), 32)
    add("double", "nf4", (48, 64), 64, nested=32)
    found |= {"int8.weight": raw("bnb int8", 6, 40, dtype=np.int8), "int8.SCB": scales("SCB", 6, dtype=F32)}
    return found | {"int8.weight_format": np.zeros((), np.uint8)}


_BLOCKS = {"config_groups": {"group_0": {"weights": {"num_bits": 8, "block_structure": [8, 16]}}}}


def blocks() -> Arrays:
    return {"m.weight": float8("blocks", 20, 40), "m.weight_scale": scales("blocks", 3, 3, dtype=BF16)}


_FILES: dict[str, Callable[[], Arrays]] = {
    "mixed": mixed,
    "few": few,
    "double": double,
    "alike": alike,
    "wide": wide,
    "exact": exact,
    "chain": chain,
    "packed": packed,
    "floats8": floats8,
    "masked": masked,
    "bitsandbytes": bitsandbytes,
    "row_scores": row_scores,
    "column_scores": column_scores,
    "unit_scores": unit_scores,
}
RECIPE = """
bits = 4
min_elements = 0

[[rule]]
match = "b.*"
prune = 0.5
prune_score = "taylor"
prune_data = "taylor.safetensors"

[[rule]]
match = "c.*"
codebook = [-1.0, 0.0, 0.5]
"""
SCORES = ("wanda", "taylor", "fisher", "obd", "given")


def make_sources(folder: Path) -> list[str]:
    """Write all sources into a folder; return their names there."""
    for name, made in _FILES.items():
        write_file(folder / f"{name}.safetensors", made())
    for score in SCORES:
        write_file(folder / f"{score}.safetensors", score_data(score))
    write_folder(folder / "mixed", mixed(), {"for": "tests", "torch_dtype": "float32"})
    write_folder(folder / "llama", llama(), LLAMA)
    tied = {name: array for name, array in llama().items() if name != "lm_head.weight"}
    write_folder(folder / "tied", tied, LLAMA | {"tie_word_embeddings": True}, shards=3)
    (folder / "recipe.toml").write_text(RECIPE)
    write_folder(folder / "mixtral", mixtral(), MIXTRAL, shards=1)
    config = {"model_type": "llama", "torch_dtype": "bfloat16"}
    write_folder(folder / "blocks", blocks(), config | {"quantization_config": _BLOCKS}, shards=1)
    return sorted(path.name for path in folder.iterdir())
