"""Tensors in the layouts of compressed-tensors, read back by rows: its usual forms, and what only others write."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..checks import Array
from ..files import Checkpoint, FormatError, TensorInfo
from ..files.checkpoint import from_little_endian
from ..layouts import compressed_tensors as layout
from ..layouts import compressed_variants as variants
from ..layouts.compressed_tensors_config import StatedBits
from ..layouts.compressed_variants import ROLES, Block
from ..quantization import dequantize
from ..tensor import QuantizedTensor, blank
from .logical_tensor import LogicalTensor

_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_SHAPE_BYTES = 24  # of `weight_shape`, three integers at most
_CONFIG_KEYS = ("quantization_config", "compression_config")


@dataclass(frozen=True)
class VariantTensor(LogicalTensor):
    """A weight in a form that this package only reads. form: which one."""

    form: variants.Variant

    @property
    def compressed(self) -> bool:
        return True

    @property
    def coded(self) -> bool:
        return True

    def rows(self, first: int, count: int) -> Array:
        first, count = self.checked(first, count)
        # rows of the last axis in one of the matrix: several in a stack so narrow that it is seen as a convolution
        each = math.prod(self.shape[:-1]) // max(1, self.matrix_shape[0])
        weights = dequantize(self.guarded(self.decode_rows, first * each, count * each), dtype=self.dtype)
        return weights.reshape(count, self.matrix_shape[1])

    def decode_rows(self, first: int, count: int) -> QuantizedTensor:
        """Rows of the last axis."""
        form, cols = self.form, self.shape[-1]
        if not count * cols:
            return blank((count, cols), form.bits, "channel")
        codes = self._codes(first, count)
        at = form.scale_rows(first, count)
        global_scale = self.parts.get("weight_global_scale")
        scales = form.decode_scales(
            self._grid(self._role("weight_scale"), at),
            None if global_scale is None else self.checkpoint.read(global_scale.name),
        )
        zeros = None if form.zeros is None else self._zeros(first, count, at)
        group: int | str = min(form.block[1], cols)
        if form.ordered:
            of_column = self._groups_of_columns()
            scales, group = scales[:, of_column], 1
            zeros = None if zeros is None else zeros[:, of_column]
        book = form.codebook(next(iter(self.parts.values())).dtype, codes)
        data = form.decode_codes(codes)
        scales = np.ascontiguousarray(scales)
        zeros = None if zeros is None else np.ascontiguousarray(zeros)
        return QuantizedTensor(data, scales, zeros, form.bits, group, (count, cols), book)

    def _role(self, name: str) -> TensorInfo:
        return self.parts["weight_scale_inv" if name == "weight_scale" and self.form.inverse else name]

    def _codes(self, first: int, count: int) -> Array:
        """(count, bytes) of stored codes."""
        nbytes = self.form.code_row_bytes()
        codes = np.empty((count, nbytes), np.uint8)
        self.checkpoint.read_into(next(iter(self.parts.values())).name, codes, first * nbytes)
        return codes

    def _grid(self, info: TensorInfo, at: Array) -> Array:
        """These rows of what lies as the scales do, seen as one matrix."""
        if info.size == 1:
            return np.repeat(self.checkpoint.read(info.name).reshape(1, 1), len(at), axis=0)
        low = int(at[0])
        found = self._rows_of(info, self.form.grid[1], low, int(at[-1]) + 1 - low)
        taken: Array = np.take(found, at - low, axis=0)
        return taken

    def _rows_of(self, info: TensorInfo, cols: int, first: int, count: int) -> Array:
        """Rows of so many columns of a part, all its matrices one below the other."""
        dtype = info.numpy_dtype
        raw = np.empty(count * cols * dtype.itemsize, np.uint8)
        self.checkpoint.read_into(info.name, raw, first * cols * dtype.itemsize)
        return from_little_endian(raw, dtype).reshape(count, cols)

    def _zeros(self, first: int, count: int, at: Array) -> Array:
        info, bits = self.parts["weight_zero_point"], self.form.bits
        if self.form.zeros == "int8":
            signed: Array = self._grid(info, at).view(np.uint8)
            unsigned: Array = signed + np.uint8(2 ** (bits - 1))  # modulo 256
            return unsigned
        scheme = layout.Scheme(bits, "channel", False, "float32")  # for how they are packed
        rows, words = self.form.matrix[0], info.shape[-2]
        found = []
        for matrix in range(first // rows, (first + count - 1) // rows + 1):
            begin = max(0, first - matrix * rows)
            end = min(rows, first + count - matrix * rows)
            skip = begin % layout.ZERO_POINT_ROWS  # whole words begin at multiples of it
            word = (begin - skip) * bits // 32
            many = -(-(skip + end - begin) * bits // 32)
            stored = self._rows_of(info, self.form.grid[1], matrix * words + word, many)
            found.append(layout.decode_zero_points(stored, scheme, skip + end - begin)[skip:])
        zeros: Array = np.concatenate(found)
        return zeros

    def _groups_of_columns(self) -> Array:
        """The group of each column; by their order where the file says -1, as its writers do."""
        found = self.checkpoint.read(self.parts["weight_g_idx"].name)
        groups, cols = self.form.grid[1], self.shape[-1]
        if (found == -1).any():
            if cols % groups:
                raise ValueError(f"weight_scale must have groups that divide {cols} columns, not {groups}")
            by_order: Array = np.arange(cols) // (cols // groups)
            return by_order
        if found.min() < 0 or found.max() >= groups:
            raise ValueError(f"weight_g_idx must be of 0..{groups - 1}, not {found.min()}..{found.max()}")
        return found


def compressed_tensors(checkpoint: Checkpoint) -> dict[str, LogicalTensor]:
    """The tensors in these layouts, by name.

    FormatError for packed integers, and int8 with scales, whose parts do not fit each other; others that are not
    understood are left out, and appear as they are stored: `why_not_read` says why.
    """
    config = quantization_config(checkpoint)
    stated = StatedBits(config)
    found: dict[str, LogicalTensor] = {}
    for name, info in checkpoint.tensors.items():
        weight = name.removesuffix("_packed")
        packed = weight != name
        if weight in found or not (packed or info.dtype == "I8" or info.dtype in _FLOAT8):
            continue
        if not packed and not any(f"{name}{scale}" in checkpoint.tensors for scale in ("_scale", "_scale_inv")):
            continue
        if packed and (not weight.endswith("weight") or info.dtype not in ("I32", "U8")):
            continue
        try:
            found[weight] = _tensor(checkpoint, weight, config, stated)
        except FormatError:
            raise
        except ValueError as error:
            if info.dtype in ("I32", "I8"):
                raise FormatError(str(error), path=info.path, tensor=weight) from None
    return found


def why_not_read(checkpoint: Checkpoint, weight: str) -> str:
    """Why a weight with parts in these layouts is left out; '' where it is not, or has no such parts."""
    try:
        config = quantization_config(checkpoint)
        _tensor(checkpoint, weight, config, StatedBits(config))
    except ValueError as error:
        return str(error)
    return ""


def _tensor(checkpoint: Checkpoint, weight: str, config: Mapping[str, Any], stated: StatedBits) -> LogicalTensor:
    names = {role: f"{weight}{role}" for role in ROLES}
    known = {role: checkpoint.tensors[name] for role, name in names.items() if name in checkpoint.tensors}
    parts = {f"weight{role}": info for role, info in known.items()}
    module = weight.rpartition(".")[0]
    shape, allowed = None, set[int]()
    if "_shape" in known and known["_shape"].nbytes <= _SHAPE_BYTES:
        shape = checkpoint.read(known["_shape"].name)
        if shape.size and 0 <= shape[-1] < 32:  # so few that codes of several widths have as many words
            allowed = stated.of(module)
        if "_packed" in known:
            _refuse_whole_words(known["_packed"], int(shape.reshape(-1)[-1]) if shape.size else 0, stated, module)
    if not _usual(known):
        infos = {role: (info.dtype, info.shape) for role, info in known.items()}
        dims = None if shape is None else shape.reshape(-1).tolist()
        form = variants.read(infos, dims, blocks_of(config), allowed)
        return VariantTensor(weight, form.shape, form.dtype, form.label, parts, None, checkpoint, form)
    described = tuple((name, info.numpy_dtype, info.shape) for name, info in parts.items())
    stated_shape = None if shape is None else (shape.dtype, tuple(shape.reshape(-1).tolist()))
    scheme, matrix, label = _inferred(described, stated_shape, frozenset(allowed))
    return LogicalTensor(weight, matrix, parts["weight_scale"].numpy_dtype, label, parts, scheme, checkpoint)


@lru_cache(1024)  # of a hundred thousand tensors most are alike
def _inferred(
    parts: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...],
    stated: tuple[np.dtype[Any], tuple[int, ...]] | None,
    allowed: frozenset[int],
) -> tuple[layout.Scheme, tuple[int, int], str]:
    """The scheme, shape and label of a weight from its parts, by name in the module, and what `weight_shape` holds."""
    infos = {name: (dtype, shape) for name, dtype, shape in parts}
    values = None if stated is None else np.array(stated[1], stated[0])
    scheme, matrix = layout.infer(infos, values, set(allowed) or None)
    return scheme, matrix, scheme.label_for(matrix[1])


def _refuse_whole_words(packed: TensorInfo, cols: int, stated: StatedBits, module: str) -> None:
    """ValueError for codes of 3, 5, 6 or 7 bits of which each word holds a whole number, as compressed-tensors packed
    them at first; the words of those of 7 bits are as many as those of 8 bits."""
    words = packed.shape[-1] if packed.shape else 0
    early = {bits for bits in (3, 5, 6, 7) if words == -(-cols // (32 // bits)) != -(-cols * bits // 32)}
    if not early:
        return
    said = stated.of(module)
    if said and said <= early:
        bits = min(said)
        raise ValueError(f"weight_packed of {bits} bits, {32 // bits} codes in each word, is not read: pack them anew")


def _usual(known: Mapping[str, TensorInfo]) -> bool:
    """Whether a weight is to be in one of the forms that `compress` writes, or is none at all."""
    codes = known.get("_packed", known.get(""))
    assert codes is not None
    if codes.dtype not in ("I32", "I8") or len(codes.shape) != 2 or "_g_idx" in known:
        return False
    scale, zeros = known.get("_scale"), known.get("_zero_point")
    if {"", "_packed"} <= set(known) or scale is None:
        return scale is None and "" not in known and "_scale_inv" not in known
    if "_packed" in known and zeros is not None and zeros.dtype == "I8":
        return False
    return len(scale.shape) == 2 and scale.shape[0] == codes.shape[0]


def quantization_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What config.json, at any depth, or the metadata says of the quantization; empty where they say nothing."""
    for found in _nested(checkpoint.config or {}):
        return found
    try:
        said = json.loads(checkpoint.metadata.get("quantization_config", "null"))
    except (ValueError, RecursionError):
        said = None
    return said if isinstance(said, dict) else {}


def _nested(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (config[key] for key in _CONFIG_KEYS if isinstance(config.get(key), dict))
    for value in config.values():
        if isinstance(value, dict):
            yield from _nested(value)


def blocks_of(config: Mapping[str, Any]) -> set[Block]:
    """The blocks of rows and columns that a config names, whatever the modules."""
    groups = config.get("config_groups")
    weights = [g.get("weights") for g in (groups.values() if isinstance(groups, dict) else ()) if isinstance(g, dict)]
    said = [w.get("block_structure") for w in weights if isinstance(w, dict)] + [config.get("weight_block_size")]
    found = set()
    for each in said:
        if isinstance(each, str) and all(side.isdecimal() for side in each.split("x")):
            each = [int(side) for side in each.split("x")]
        if isinstance(each, list) and len(each) == 2 and all(type(side) is int and side > 0 for side in each):
            found.add((each[0], each[1]))
    return found
