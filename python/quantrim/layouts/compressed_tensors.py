"""The layouts of compressed-tensors for one weight matrix, which vLLM and transformers read.

pack-quantized: `weight_packed` int32 (rows, words), codes of any bits as one bit stream per row, least significant bit
first; `weight_scale` (rows, groups); `weight_shape` int64 (2,); asymmetric also `weight_zero_point` int32, packed along
the rows: (words for rows, groups). int-quantized (8 bits): `weight` int8, `weight_scale`, `weight_zero_point` int8.
Their codes and zero points are signed; what is packed is the signed value + 2**(bits-1), which is our unsigned code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..tensor import GroupSize, QuantizedTensor, columns_per_group, row_bytes
from . import compressed_variants as variants
from .base import (
    SCALE_DTYPES,
    WEIGHT,
    Array,
    Arrays,
    Catalog,
    Chunk,
    Described,
    Encoder,
    Found,
    Grid,
    Info,
    LayoutError,
    Shape,
    StoredTensor,
    WritableLayout,
    decode_scales,
)
from .compressed_tensors_config import INT, PACKED, StatedBits, quantization_config, reader_notes
from .compressed_variants import FLOAT8, ROLES
from .zero_points import ZERO_POINT_ROWS, pack_zero_points, unpack_zero_points

__all__ = ["INT", "PACKED", "CompressedTensors", "find", "infer", "layout_of", "why_not_read"]

_ZERO_POINT_BLOCK = 1 << 20  # zero points that are packed at a time
_SHAPE_BYTES = 24  # of `weight_shape`, three integers at most


@dataclass(frozen=True)
class CompressedTensors(WritableLayout):
    """A matrix on a uniform grid of 1..8 bits, whose group_size divides the columns or is "channel".

    scale_dtype: "float16", "bfloat16" or "float32". format: pack-quantized, or int-quantized for 8 bits."""

    bits: int
    group_size: GroupSize
    symmetric: bool
    scale_dtype: str
    format: str = PACKED
    family: ClassVar[str] = "compressed-tensors"
    readers: ClassVar[tuple[str, ...]] = ("transformers", "vLLM")

    @property
    def grid(self) -> Grid:
        return Grid(self.bits, self.group_size, self.symmetric, self.scale_dtype)

    @property
    def stacks(self) -> bool:
        return self.symmetric  # zero points are packed across rows

    @property
    def label(self) -> str:
        return self.grid.label_for(None)

    def label_for(self, shape: Shape) -> str:
        return self.grid.label_for(shape[-1])

    @property
    def decoded_dtype(self) -> str:
        return SCALE_DTYPES[self.scale_dtype][0]

    def why_not(self, info: Described) -> str | None:
        if len(info.shape) != 2:
            return f"a matrix is wanted, not {len(info.shape)} axes"
        if not info.name.endswith(WEIGHT) or info.name == WEIGHT:
            return f"its name must be that of a module and end in {WEIGHT}"
        group, cols = self.group_size, info.shape[1]
        if group == "tensor" or (isinstance(group, int) and (not cols or cols % group)):
            return f'group_size must be "channel" or divide the {cols} columns, not {group!r}'
        return None

    def stored(self, shape: Shape) -> dict[str, StoredTensor]:
        rows, cols = shape
        scales = (rows, self.grid.groups(cols))
        found = {"scale": StoredTensor("weight_scale", SCALE_DTYPES[self.scale_dtype][0], scales)}
        if self.format == INT:
            found["codes"] = StoredTensor("weight", "I8", (rows, cols))
            if not self.symmetric:
                found["zero_point"] = StoredTensor("weight_zero_point", "I8", scales)
            return found
        found["codes"] = StoredTensor("weight_packed", "I32", (rows, self.code_row_bytes(cols) // 4))
        found["shape"] = StoredTensor("weight_shape", "I64", (2,))
        if not self.symmetric:
            words = -(-rows * self.bits // 32)
            found["zero_point"] = StoredTensor("weight_zero_point", "I32", (words, scales[1]))
        return found

    def code_row_bytes(self, cols: int) -> int:
        """Count the bytes of a row of codes: whole 32-bit words, except for int8."""
        return cols if self.format == INT else -(-cols * self.bits // 32) * 4

    def encoder(self, shape: Shape, counts: Sequence[int] = ()) -> Encoder:
        return _Encoder(self, (shape[0], shape[1]))

    def decode(self, arrays: Arrays, first: int, count: int, shape: Shape) -> QuantizedTensor:
        cols, bits = shape[1], self.bits
        codes = arrays.rows("weight" if self.format == INT else "weight_packed", first, count)
        raw = np.ascontiguousarray(codes).view(np.uint8).reshape(count, self.code_row_bytes(cols))
        data = _flipped(raw) if self.format == INT else np.ascontiguousarray(raw[:, : row_bytes(cols, bits)])
        scales = decode_scales(arrays.rows("weight_scale", first, count))
        zeros = None if self.symmetric else self._zero_points(arrays, first, count)
        return QuantizedTensor(data, scales, zeros, bits, self.group_size, (count, cols))

    def _zero_points(self, arrays: Arrays, first: int, count: int) -> NDArray[np.uint8]:
        if self.format == INT:
            return _flipped(arrays.rows("weight_zero_point", first, count).view(np.uint8))
        # packed along the rows: whole words begin at multiples of ZERO_POINT_ROWS
        skip = first % ZERO_POINT_ROWS
        word = (first - skip) * self.bits // 32
        words = -(-(skip + count) * self.bits // 32)
        found = unpack_zero_points(arrays.rows("weight_zero_point", word, words), self.bits, skip + count)
        return np.ascontiguousarray(found[skip:])


class _Encoder(Encoder):
    def __init__(self, layout: CompressedTensors, shape: tuple[int, int]) -> None:
        self._layout, self._shape = layout, shape
        self._groups = layout.grid.groups(shape[1])
        # zero points that are packed along the rows are written last; they are few
        packed = not layout.symmetric and layout.format == PACKED
        self._zeros = np.empty((shape[0], self._groups), np.uint8) if packed else None

    def encode(self, x: QuantizedTensor, chunk: Chunk) -> Iterator[tuple[str, int, Array]]:
        layout, cols = self._layout, self._shape[1]
        # the words of a row end with its last column, so that only there is padding
        whole = chunk.col + chunk.cols == cols
        width = layout.code_row_bytes(chunk.cols) if whole or layout.format == INT else x.data.shape[1]
        at = chunk.row * layout.code_row_bytes(cols) + chunk.col * layout.bits // 8
        yield "codes", at, _flipped(x.data) if layout.format == INT else _padded(x.data, width)
        group = chunk.col // columns_per_group(layout.group_size, cols)
        index = chunk.row * self._groups + group
        scales = x.scales.astype(SCALE_DTYPES[layout.scale_dtype][1])
        yield "scale", index * scales.itemsize, scales
        if x.zero_points is None:
            return
        if self._zeros is None:
            yield "zero_point", index, _flipped(x.zero_points)
        else:
            columns = slice(group, group + x.zero_points.shape[1])
            self._zeros[chunk.row : chunk.row + chunk.rows, columns] = x.zero_points

    def finish(self) -> Iterator[tuple[str, int, Array]]:
        if self._layout.format == PACKED:
            yield "shape", 0, np.array(self._shape, np.int64)
        if self._zeros is None:
            return
        step = ZERO_POINT_ROWS * max(1, _ZERO_POINT_BLOCK // (ZERO_POINT_ROWS * self._groups))
        at = 0
        for row in range(0, self._shape[0], step):
            words = pack_zero_points(self._zeros[row : row + step], self._layout.bits)
            yield "zero_point", at, words
            at += words.nbytes


def _padded(data: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    if data.shape[1] == width:
        return data
    padded = np.zeros((len(data), width), np.uint8)
    padded[:, : data.shape[1]] = data
    return padded


def _flipped(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return unsigned codes of 8 bits as signed ones, or back."""
    signed: NDArray[np.uint8] = codes ^ np.uint8(0x80)
    return signed


def layout_of(q: QuantizedTensor, scale_dtype: str = "float16", format: str = PACKED) -> CompressedTensors:
    """Return the layout that holds a quantized matrix exactly.

    q: (rows, cols), with a group_size that is "channel" or divides cols, and scales that `scale_dtype` holds exactly.
    ValueError where there is none.
    """
    if len(q.shape) != 2 or q.codebook is not None:
        raise ValueError(f"q must be a matrix on a uniform grid, not of shape {q.shape}")
    checks.choice("scale_dtype", scale_dtype, SCALE_DTYPES)
    checks.choice("format", format, (PACKED, INT) if q.bits == 8 else (PACKED,))
    layout = CompressedTensors(q.bits, q.group_size, q.symmetric, scale_dtype, format)
    group, cols = q.group_size, q.shape[1]
    if group == "tensor" or (isinstance(group, int) and (not cols or cols % group)):
        raise ValueError(f'group_size must be "channel" or divide the {cols} columns, not {group!r}')
    with np.errstate(over="ignore"):
        kept = q.scales.astype(SCALE_DTYPES[scale_dtype][1]).astype(np.float32)
    if not np.array_equal(kept, q.scales):
        at = int((kept != q.scales).reshape(-1).argmax())
        found = f"{q.scales.reshape(-1)[at]} at flat index {at}"
        raise ValueError(f"scales must be {scale_dtype} values, not {found}; quantize with scale_dtype")
    return layout


# What a file holds


def find(catalog: Catalog) -> Iterator[Found]:
    """Yield the weights in these layouts and their variants.

    LayoutError for packed integers, and int8 with scales, whose arrays do not fit each other; others that are not
    understood are left out, and appear as they are: `why_not_read` says why.
    """
    stated = StatedBits(catalog.quantization)
    seen = set()
    for name, info in catalog.tensors.items():
        weight = name.removesuffix("_packed")
        packed = weight != name
        if weight in seen or not (packed or info.dtype == "I8" or info.dtype in FLOAT8):
            continue
        if not packed and not any(f"{name}{scale}" in catalog.tensors for scale in ("_scale", "_scale_inv")):
            continue
        if packed and (not weight.endswith("weight") or info.dtype not in ("I32", "U8")):
            continue
        try:
            found = _found(catalog, weight, stated)
        except ValueError as error:
            if info.dtype in ("I32", "I8"):
                raise LayoutError(str(error), weight) from None
            continue
        seen.add(weight)
        yield found


def why_not_read(catalog: Catalog, weight: str) -> str:
    """Say why `find` leaves out a weight with arrays in these layouts; '' where it does not, or there are none."""
    try:
        _found(catalog, weight, StatedBits(catalog.quantization))
    except ValueError as error:
        return str(error)
    return ""


def _found(catalog: Catalog, weight: str, stated: StatedBits) -> Found:
    names = {role: f"{weight}{role}" for role in ROLES}
    known = {role: catalog.tensors[name] for role, name in names.items() if name in catalog.tensors}
    arrays = {f"weight{role}": names[role] for role in known}
    module = weight.rpartition(".")[0]
    values, allowed = None, set[int]()
    if "_shape" in known and known["_shape"].nbytes <= _SHAPE_BYTES:
        values = catalog.read(names["_shape"])
        if values.size and 0 <= values[-1] < 32:  # so few that codes of several widths have as many words
            allowed = stated.of(module)
        if "_packed" in known:
            _refuse_whole_words(known["_packed"], int(values.reshape(-1)[-1]) if values.size else 0, stated, module)
    if not _usual(known):
        infos = {role: (info.dtype, info.shape) for role, info in known.items()}
        dims = None if values is None else values.reshape(-1).tolist()
        variant = variants.read(infos, dims, variants.blocks_of(catalog.quantization), allowed)
        return Found(weight, variant, variant.shape, arrays)
    described = tuple((f"weight{role}", info.dtype, info.shape) for role, info in known.items())
    told = None if values is None else tuple(values.reshape(-1).tolist())
    layout, shape = _inferred(described, told, frozenset(allowed))
    return Found(weight, layout, shape, arrays)


@lru_cache(1024)  # of a hundred thousand tensors most are alike
def _inferred(
    arrays: tuple[tuple[str, str, Shape], ...], values: tuple[int, ...] | None, allowed: frozenset[int]
) -> tuple[CompressedTensors, tuple[int, int]]:
    return infer({name: (dtype, shape) for name, dtype, shape in arrays}, values, set(allowed) or None)


def _refuse_whole_words(packed: Info, cols: int, stated: StatedBits, module: str) -> None:
    """Raise ValueError for codes of 3, 5, 6 or 7 bits of which each word holds a whole number, as compressed-tensors
    packed them at first; the words of those of 7 bits are as many as those of 8 bits."""
    words = packed.shape[-1] if packed.shape else 0
    early = {bits for bits in (3, 5, 6, 7) if words == -(-cols // (32 // bits)) != -(-cols * bits // 32)}
    said = stated.of(module) if early else set()
    if said and said <= early:
        bits = min(said)
        raise ValueError(f"weight_packed of {bits} bits, {32 // bits} codes in each word, is not read: pack them anew")


def _usual(known: Mapping[str, Info]) -> bool:
    """Tell whether a weight is meant to be in a layout that `compress` writes."""
    codes = known.get("_packed", known.get(""))
    if codes is None or codes.dtype not in ("I32", "I8") or len(codes.shape) != 2 or "_g_idx" in known:
        return False
    scale, zeros = known.get("_scale"), known.get("_zero_point")
    if {"", "_packed"} <= set(known) or scale is None:
        return scale is None and "" not in known and "_scale_inv" not in known
    if "_packed" in known and zeros is not None and zeros.dtype == "I8":
        return False
    return len(scale.shape) == 2 and scale.shape[0] == codes.shape[0]


def infer(
    infos: Mapping[str, tuple[str, Shape]], values: Sequence[int] | None, allowed: set[int] | None = None
) -> tuple[CompressedTensors, tuple[int, int]]:
    """Return layout and shape of a matrix from dtypes and shapes of its arrays and the values of `weight_shape`.

    allowed: the bits it may have; several may fit a matrix of few columns. ValueError says which rule is broken.
    """
    names = {dtype: name for name, (dtype, _) in SCALE_DTYPES.items()}
    scale_dtype, scale_shape = _info(infos, "weight_scale", tuple(names))
    symmetric = "weight_zero_point" not in infos
    if "weight_packed" not in infos:
        _, (rows, cols) = _info(infos, "weight", ("I8",))
        bits, format = 8, INT
        group = _group_size(scale_shape, rows, cols)
    else:
        _, (packed_rows, words) = _info(infos, "weight_packed", ("I32",))
        rows, cols = _stated_shape(infos, values, packed_rows)
        group = _group_size(scale_shape, rows, cols)
        bits, format = _bits(words, cols, allowed), PACKED
    layout = CompressedTensors(bits, group, symmetric, names[scale_dtype], format)
    for each in layout.stored((rows, cols)).values():
        if infos[each.name][1] != each.shape:
            said = f"{each.name} of a matrix ({rows}, {cols})"
            raise ValueError(f"{said} must have shape {each.shape}, not {infos[each.name][1]}")
    return layout, (rows, cols)


def _info(
    infos: Mapping[str, tuple[str, Shape]], name: str, dtypes: tuple[str, ...]
) -> tuple[str, tuple[int, int]]:
    if name not in infos:
        raise ValueError(f"{name} is missing beside {', '.join(sorted(infos)) or 'nothing'}")
    dtype, shape = infos[name]
    if dtype not in dtypes:
        raise ValueError(f"{name} must be {' or '.join(dtypes)}, not {dtype}")
    if len(shape) != 2:
        raise ValueError(f"{name} must have two dimensions, not shape {shape}")
    return dtype, (shape[0], shape[1])


def _stated_shape(
    infos: Mapping[str, tuple[str, Shape]], values: Sequence[int] | None, rows: int
) -> tuple[int, int]:
    if "weight_shape" not in infos:
        raise ValueError("weight_shape is missing")
    dtype, shape = infos["weight_shape"]
    if values is None or dtype not in ("I64", "I32") or shape != (2,):
        raise ValueError(f"weight_shape must be two I64, not {dtype} of shape {shape}")
    stated = (int(values[0]), int(values[1]))
    if min(stated) < 0 or stated[0] != rows:
        raise ValueError(f"weight_shape must be the {rows} rows of weight_packed and its columns, not {stated}")
    return stated


def _group_size(scales: tuple[int, int], rows: int, cols: int) -> GroupSize:
    groups = scales[1]
    if scales[0] != rows or not groups or (groups > 1 and cols % groups):
        wanted = f"{rows} rows of one scale, or of a number that divides {cols} columns"
        raise ValueError(f"weight_scale must have {wanted}, not shape {scales}")
    return "channel" if groups == 1 else cols // groups


def _bits(words: int, cols: int, allowed: set[int] | None) -> int:
    fitting = [bits for bits in range(1, 9) if -(-cols * bits // 32) == words and (allowed is None or bits in allowed)]
    if len(fitting) == 1:
        return fitting[0]
    choice = "1..8" if allowed is None else " or ".join(map(str, sorted(allowed)))
    if not fitting:
        raise ValueError(
            f"weight_packed of {cols} columns must have words for codes of {choice} bits, not {words} a row"
        )
    raise ValueError(
        f"weight_packed of {cols} columns, {words} words a row: may be codes of {fitting} bits; name the bits"
    )


def config_of(
    layouts: Mapping[str, WritableLayout], others: Collection[str], absent: Iterable[str], renamed: Mapping[str, str]
) -> dict[str, Any]:
    """Return the `quantization_config` of modules in these layouts; empty where none of them is in this one."""
    ours = {module: each for module, each in layouts.items() if isinstance(each, CompressedTensors)}
    known = {module: renamed[module] for module in (*ours, *others) if module in renamed}
    return quantization_config(ours, others, absent, known) if ours else {}


def notes_of(layouts: Iterable[WritableLayout]) -> list[str]:
    """Return what some readers do not open of these layouts."""
    return reader_notes([each for each in layouts if isinstance(each, CompressedTensors)])
