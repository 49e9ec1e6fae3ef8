"""How one matrix stored sparse is laid out among the tensors of a checkpoint: names, shapes, metadata.

What the tensors of `sparse_bitmask` leave open (bits, groups, how many weights are stored) is in the file's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import checks
from ..tensor import matrix_shape, row_bytes
from .codebook import DTYPES, check_parts, shape_of
from .compressed_tensors import INT, SCALE_DTYPES, Part
from .compressed_tensors import Scheme as Grid

__all__ = ["LAYOUT", "Scheme", "from_entry"]

LAYOUT = "sparse"


@dataclass(frozen=True)
class Scheme:
    """dtype: of the weights once decoded, as safetensors has it. stored: how many are not left out; at most so many
    before they were counted. grid: of their codes; None where the weights themselves are stored."""

    dtype: str
    stored: int
    grid: Grid | None = None

    @property
    def label(self) -> str:
        """For people: "int4 group 32 symmetric, sparse"."""
        return self.label_for(None)

    def label_for(self, cols: int | None) -> str:
        """The label on a matrix of `cols` columns, as that of its grid."""
        return f"{self.dtype if self.grid is None else self.grid.label_for(cols)}, sparse"

    @property
    def signed(self) -> bool:
        """Whether codes are stored as int8, not packed."""
        return self.grid is not None and self.grid.bits == 8 and self.grid.symmetric

    def parts(self, shape: tuple[int, int]) -> dict[str, Part]:
        """What a matrix of this shape is stored as, by role."""
        rows, cols = shape
        found = {
            "shape": Part("shape", "I64", (2,)),
            "bitmask": Part("bitmask", "U8", (rows, row_bytes(cols, 1))),
            "row_offsets": Part("row_offsets", "I64", (rows,)),
        }
        if self.grid is None:
            return {**found, "values": Part("compressed", self.dtype, (self.stored,))}
        if self.signed:
            found["values"] = Part("compressed", "I8", (self.stored,))
        else:
            found["values"] = Part("compressed_packed", "U8", (row_bytes(self.stored, self.grid.bits),))
        scales = (rows, self.grid.groups(cols))
        found["scale"] = Part("weight_scale", SCALE_DTYPES[self.grid.scale_dtype][0], scales)
        if not self.grid.symmetric:
            found["zero_point"] = Part("weight_zero_point", "U8", scales)
        return found

    def entry(self, shape: Sequence[int]) -> dict[str, Any]:
        """What the metadata of a file says of a tensor of this shape."""
        entry = {"layout": LAYOUT, "shape": list(shape), "dtype": self.dtype, "stored": self.stored}
        return entry if self.grid is None else {**entry, "bits": self.grid.bits, "group_size": self.grid.group_size}


def from_entry(
    entry: Mapping[str, Any], infos: Mapping[str, tuple[str, tuple[int, ...]]]
) -> tuple[Scheme, tuple[int, ...]]:
    """The scheme and shape of a tensor, from its entry and the (dtype, shape) of its parts by name within the module.

    ValueError says which rule is broken.
    """
    dtype = checks.choice("dtype", entry.get("dtype"), DTYPES)
    shape = shape_of(entry)
    rows, cols = matrix_shape(shape)
    stored = checks.integer("stored", entry.get("stored"), 0, rows * cols)
    grid = None
    if "bits" in entry:
        bits = checks.integer("bits", entry["bits"], 2, 8)
        group = entry.get("group_size")
        if group != "channel" and cols % checks.integer("group_size", group, 1, max(1, cols)):
            raise ValueError(f'group_size must be "channel" or divide the {cols} columns, not {group!r}')
        if "weight_scale" not in infos:
            raise ValueError("weight_scale is missing")
        names = {form: name for name, (form, _) in SCALE_DTYPES.items()}
        scale = names[checks.choice("dtype of weight_scale", infos["weight_scale"][0], names)]
        symmetric = "weight_zero_point" not in infos
        assert isinstance(group, (int, str))
        grid = Grid(bits, group, symmetric, scale, INT)
    scheme = Scheme(dtype, stored, grid)
    check_parts(scheme.parts((rows, cols)), infos)
    return scheme, shape
