"""The layouts of compressed-tensors for one weight matrix, which vLLM and transformers read.

pack-quantized: `weight_packed` int32 (rows, words), codes of any bits as one bit stream per row, least
significant bit first; `weight_scale` (rows, groups); `weight_shape` int64 (2,); asymmetric also
`weight_zero_point` int32, packed
along the rows: (words for rows, groups). int-quantized (8 bits): `weight` int8, `weight_scale`,
`weight_zero_point` int8. Their codes and zero points are signed; what is packed is the signed value +
2**(bits-1), which is our unsigned code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..packing import pack, unpack
from ..tensor import QuantizedTensor, columns_per_group, row_bytes

PACKED, INT = "pack-quantized", "int-quantized"
SCALE_DTYPES = {
    "float16": ("F16", np.dtype(np.float16)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
    "float32": ("F32", np.dtype(np.float32)),
}
ZERO_POINT_ROWS = 32  # rows whose packed zero points fill whole words, whatever the bits


@dataclass(frozen=True)
class Scheme:
    """How one matrix is stored. bits: 1..8. group_size: an integer that divides the columns, or "channel" (a
    row).

    scale_dtype: "float16", "bfloat16" or "float32". format: pack-quantized, or int-quantized for 8 bits.
    """

    bits: int
    group_size: int | str
    symmetric: bool
    scale_dtype: str
    format: str = PACKED

    @property
    def strategy(self) -> str:
        return "channel" if self.group_size == "channel" else "group"

    @property
    def label(self) -> str:
        """For people: "int4 group 32 symmetric"."""
        return self.label_for(None)

    def label_for(self, cols: int | None) -> str:
        """The label on a matrix of `cols` columns: a group of all of them is its channel, as files do not tell one
        from the other."""
        grouping = "channel" if self.group_size in ("channel", cols) else f"group {self.group_size}"
        return f"int{self.bits} {grouping} {'symmetric' if self.symmetric else 'asymmetric'}"

    def groups(self, cols: int) -> int:
        """Scales of a row of `cols` columns, at least one."""
        return cols // columns_per_group(self.group_size, cols) if self.group_size != "channel" else 1


class Part(NamedTuple):
    """One stored tensor of a matrix: its name within the module, its safetensors dtype, its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def code_row_bytes(scheme: Scheme, cols: int) -> int:
    """Bytes of a stored row of codes: whole 32-bit words, except for int8."""
    return cols if scheme.format == INT else -(-cols * scheme.bits // 32) * 4


def parts(scheme: Scheme, shape: tuple[int, int]) -> dict[str, Part]:
    """What a matrix of this shape is stored as: "codes", "scale" and, where there are such, "zero_point" and
    "shape"."""
    rows, cols = shape
    scales = (rows, scheme.groups(cols))
    found = {"scale": Part("weight_scale", SCALE_DTYPES[scheme.scale_dtype][0], scales)}
    if scheme.format == INT:
        found["codes"] = Part("weight", "I8", shape)
        if not scheme.symmetric:
            found["zero_point"] = Part("weight_zero_point", "I8", scales)
        return found
    found["codes"] = Part("weight_packed", "I32", (rows, code_row_bytes(scheme, cols) // 4))
    found["shape"] = Part("weight_shape", "I64", (2,))
    if not scheme.symmetric:
        words = -(-rows * scheme.bits // 32)
        found["zero_point"] = Part("weight_zero_point", "I32", (words, scales[1]))
    return found


# Encoding: each function takes some rows of a matrix and gives the little-endian values that are stored for
# them.


def encode_codes(data: NDArray[np.uint8], scheme: Scheme, cols: int) -> NDArray[np.uint8]:
    """data: (rows, packed bytes) of a QuantizedTensor. Returns (rows, code_row_bytes) uint8: a view where
    nothing changes."""
    if scheme.format == INT:
        return _flipped(data)
    width = code_row_bytes(scheme, cols)
    if data.shape[1] == width:
        return data
    padded = np.zeros((len(data), width), np.uint8)
    padded[:, : data.shape[1]] = data
    return padded


def encode_scales(scales: NDArray[np.float32], scheme: Scheme) -> NDArray[Any]:
    """scales: float32 values that the scale dtype holds exactly."""
    stored: NDArray[Any] = scales.astype(SCALE_DTYPES[scheme.scale_dtype][1])
    return stored


def encode_zero_points(zero_points: NDArray[np.uint8], scheme: Scheme) -> NDArray[Any]:
    """zero_points: (rows, groups) uint8. Returns int8 (rows, groups), or int32 (words, groups) packed along
    the rows.

    Rows may come in several parts if each but the last is a multiple of ZERO_POINT_ROWS.
    """
    if scheme.format == INT:
        return _flipped(zero_points).view(np.int8)
    rows, groups = zero_points.shape
    words = -(-rows * scheme.bits // 32)
    padded = np.zeros((groups, words * 4), np.uint8)
    padded[:, : row_bytes(rows, scheme.bits)] = pack(np.ascontiguousarray(zero_points.T), scheme.bits)
    return np.ascontiguousarray(padded.view("<i4").T)


def encode_shape(shape: tuple[int, int]) -> NDArray[np.int64]:
    return np.array(shape, np.int64)


def encode(q: QuantizedTensor, scale_dtype: str = "float16", format: str = PACKED) -> dict[str, NDArray[Any]]:
    """A quantized matrix as the tensors that a module holds, by their names in it.

    q: (rows, cols), with a group_size that is "channel" or divides cols, and scales that `scale_dtype` holds
        exactly.
    """
    scheme = _scheme_for(q, scale_dtype, format)
    rows, cols = q.shape
    stored = parts(scheme, (rows, cols))
    codes = encode_codes(np.ascontiguousarray(q.data), scheme, cols)
    arrays: dict[str, NDArray[Any]] = {
        stored["codes"].name: codes.view(np.int8 if scheme.format == INT else "<i4").reshape(stored["codes"].shape),
        "weight_scale": encode_scales(q.scales, scheme),
    }
    if q.zero_points is not None:
        arrays["weight_zero_point"] = encode_zero_points(q.zero_points, scheme)
    if "shape" in stored:
        arrays["weight_shape"] = encode_shape((rows, cols))
    return arrays


def _scheme_for(q: QuantizedTensor, scale_dtype: str, format: str) -> Scheme:
    if len(q.shape) != 2 or q.codebook is not None:
        raise ValueError(f"q must be a matrix on a uniform grid, not of shape {q.shape}")
    checks.choice("scale_dtype", scale_dtype, SCALE_DTYPES)
    checks.choice("format", format, (PACKED, INT) if q.bits == 8 else (PACKED,))
    group, cols = q.group_size, q.shape[1]
    if group == "tensor" or (isinstance(group, int) and (not cols or cols % group)):
        raise ValueError(f'group_size must be "channel" or divide the {cols} columns, not {group!r}')
    with np.errstate(over="ignore"):
        stored = q.scales.astype(SCALE_DTYPES[scale_dtype][1]).astype(np.float32)
    if not np.array_equal(stored, q.scales):
        at = int((stored != q.scales).reshape(-1).argmax())
        found = f"{q.scales.reshape(-1)[at]} at flat index {at}"
        raise ValueError(f"scales must be {scale_dtype} values, not {found}; quantize with scale_dtype")
    return Scheme(q.bits, group, q.symmetric, scale_dtype, format)


def _flipped(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Unsigned codes of 8 bits as signed ones, or back."""
    signed: NDArray[np.uint8] = codes ^ np.uint8(0x80)
    return signed


# Decoding


def decode_codes(stored: NDArray[Any], scheme: Scheme, cols: int) -> NDArray[np.uint8]:
    """Some rows of the stored codes, int32 or int8, as the packed bytes of a QuantizedTensor."""
    raw = np.ascontiguousarray(stored).view(np.uint8).reshape(len(stored), code_row_bytes(scheme, cols))
    if scheme.format == INT:
        return _flipped(raw)
    return np.ascontiguousarray(raw[:, : row_bytes(cols, scheme.bits)])


def decode_scales(stored: NDArray[Any]) -> NDArray[np.float32]:
    """Stored scales as float32, of either sign. ValueError where one is NaN or infinite."""
    scales = stored.astype(np.float32)
    bad = ~np.isfinite(scales)
    if bad.any():
        at = int(bad.reshape(-1).argmax())
        raise ValueError(f"weight_scale must be finite, not {scales.reshape(-1)[at]} at flat index {at}")
    return scales


def decode_zero_points(stored: NDArray[Any], scheme: Scheme, rows: int) -> NDArray[np.uint8]:
    """Stored zero points of `rows` rows, the first a multiple of ZERO_POINT_ROWS, as (rows, groups) uint8."""
    if scheme.format == INT:
        return _flipped(stored.view(np.uint8))
    by_group = np.ascontiguousarray(stored.T).view(np.uint8).reshape(stored.shape[1], -1)
    packed = np.ascontiguousarray(by_group[:, : row_bytes(rows, scheme.bits)])
    return np.ascontiguousarray(unpack(packed, scheme.bits, rows).T)


def decode(stored: Mapping[str, NDArray[Any]], bits: int | None = None) -> QuantizedTensor:
    """The QuantizedTensor that these tensors of a module hold, bit for bit.

    stored: arrays by name, `weight_packed` or `weight` first among them. bits: where the shapes allow
    several. ValueError for a missing part, a shape that does not fit the others, or a scale that is no scale.
    """
    infos = {name: (a.dtype, a.shape) for name, a in stored.items()}
    scheme, shape = infer(infos, stored.get("weight_shape"), None if bits is None else {bits})
    zero_points = None
    if not scheme.symmetric:
        zero_points = decode_zero_points(stored["weight_zero_point"], scheme, shape[0])
    codes = stored["weight" if scheme.format == INT else "weight_packed"]
    data = decode_codes(codes, scheme, shape[1])
    return QuantizedTensor(
        data, decode_scales(stored["weight_scale"]), zero_points, scheme.bits, scheme.group_size, shape
    )


def infer(
    infos: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    shape: NDArray[Any] | None,
    allowed: set[int] | None = None,
) -> tuple[Scheme, tuple[int, int]]:
    """The scheme and shape of a matrix from the dtypes and shapes of its parts and the values of
    `weight_shape`.

    allowed: the bits it may have; several may fit a matrix of few columns. ValueError says which rule is
        broken.
    """
    scale_dtype, scale_shape = _info(infos, "weight_scale", tuple(d for _, d in SCALE_DTYPES.values()))
    names = {dtype: name for name, (_, dtype) in SCALE_DTYPES.items()}
    symmetric = "weight_zero_point" not in infos
    if "weight_packed" not in infos:
        _, (rows, cols) = _info(infos, "weight", (np.dtype(np.int8),))
        group = _group_size(scale_shape, rows, cols)
        scheme = Scheme(8, group, symmetric, names[scale_dtype], INT)
    else:
        _, (packed_rows, words) = _info(infos, "weight_packed", (np.dtype(np.int32),))
        rows, cols = _stated_shape(infos, shape, packed_rows)
        group = _group_size(scale_shape, rows, cols)
        scheme = Scheme(_bits(words, cols, allowed), group, symmetric, names[scale_dtype], PACKED)
    for part in parts(scheme, (rows, cols)).values():
        if infos[part.name][1] != part.shape:
            said = f"{part.name} of a matrix ({rows}, {cols})"
            raise ValueError(f"{said} must have shape {part.shape}, not {infos[part.name][1]}")
    return scheme, (rows, cols)


def _info(
    infos: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], name: str, dtypes: tuple[np.dtype[Any], ...]
) -> tuple[np.dtype[Any], tuple[int, int]]:
    if name not in infos:
        raise ValueError(f"{name} is missing beside {', '.join(sorted(infos)) or 'nothing'}")
    dtype, shape = infos[name]
    if dtype not in dtypes:
        raise ValueError(f"{name} must be {' or '.join(map(str, dtypes))}, not {dtype}")
    if len(shape) != 2:
        raise ValueError(f"{name} must have two dimensions, not shape {shape}")
    return dtype, (shape[0], shape[1])


def _stated_shape(
    infos: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], values: NDArray[Any] | None, rows: int
) -> tuple[int, int]:
    if "weight_shape" not in infos:
        raise ValueError("weight_shape is missing")
    dtype, shape = infos["weight_shape"]
    if values is None or dtype not in (np.dtype(np.int64), np.dtype(np.int32)) or shape != (2,):
        raise ValueError(f"weight_shape must be two int64, not {dtype} of shape {shape}")
    stated = (int(values[0]), int(values[1]))
    if min(stated) < 0 or stated[0] != rows:
        raise ValueError(f"weight_shape must be the {rows} rows of weight_packed and its columns, not {stated}")
    return stated


def _group_size(scales: tuple[int, int], rows: int, cols: int) -> int | str:
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
