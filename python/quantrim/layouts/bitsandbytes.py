"""The 4-bit layout of bitsandbytes for one weight matrix, which bitsandbytes and transformers read: NF4 and FP4.

Of a module: `weight` uint8 (bytes, 1), two codes in a byte, the first in the high half; `weight.absmax` float32, the
scale of each block of the flat tensor; `weight.quant_map` float32 (16,), the table; and
`weight.quant_state.bitsandbytes__nf4` (or fp4), bytes of JSON: quant_type, blocksize, dtype, shape. Only matrices whose
columns are a multiple of the block are written so: then blocks are groups of a row. What else bitsandbytes writes is
read by `bitsandbytes_variants`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..codebooks import table
from .codebook import check_parts, shape_of
from .compressed_tensors import Part

__all__ = ["KINDS", "STATE", "Scheme", "fits", "from_state", "quantization_config", "swapped"]

KINDS = ("nf4", "fp4")
STATE = "quant_state.bitsandbytes__"  # then the kind
BLOCKS = tuple(2**n for n in range(5, 13))
DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Scheme:
    """kind: "nf4" or "fp4". group_size: of a block. dtype: of the weights once decoded, as safetensors has it."""

    kind: str
    group_size: int
    dtype: str
    bits: int = 4
    scale_dtype: str = "float32"

    @property
    def label(self) -> str:
        """For people: "nf4 group 64, bitsandbytes"."""
        return f"{self.kind} group {self.group_size}, bitsandbytes"

    def parts(self, shape: tuple[int, int]) -> dict[str, Part]:
        """What a matrix of this shape is stored as, by role."""
        size = shape[0] * shape[1]
        return {
            "codes": Part("weight", "U8", (size // 2, 1)),
            "scale": Part("weight.absmax", "F32", (size // self.group_size,)),
            "map": Part("weight.quant_map", "F32", (16,)),
            "state": Part(f"weight.{STATE}{self.kind}", "U8", (len(self.state(shape)),)),
        }

    def state(self, shape: tuple[int, int]) -> bytes:
        """What names and shapes do not say."""
        values = {"quant_type": self.kind, "blocksize": self.group_size, "dtype": DTYPE_NAMES[self.dtype]}
        return json.dumps({**values, "shape": list(shape)}).encode()

    def quant_map(self) -> NDArray[np.float32]:
        """The table, by code."""
        return table(self.kind).values


def fits(kind: object, group_size: object, cols: int) -> bool:
    """Whether a matrix of so many columns can be stored so."""
    return kind in KINDS and isinstance(group_size, int) and group_size in BLOCKS and cols % group_size == 0


def swapped(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bytes of two codes with the first in the low half as those with it in the high half, or back."""
    halves: NDArray[np.uint8] = (codes >> 4 | codes << 4).astype(np.uint8, copy=False)
    return halves


def from_state(
    state: object, kind: str, infos: Mapping[str, tuple[str, tuple[int, ...]]], state_bytes: int
) -> tuple[Scheme, tuple[int, int]] | None:
    """The scheme and shape of a matrix, from its state and the (dtype, shape) of its parts by name within the module.

    None for what bitsandbytes may write in another form: nested scales, blocks that do not divide the columns, no
    matrix, codes of another dtype. ValueError says which rule is broken.
    """
    if not isinstance(state, dict):
        raise ValueError(f"the state must be an object, not {state!r}")
    if state.get("quant_type") != kind:
        raise ValueError(f"quant_type must be {kind!r}, not {state.get('quant_type')!r}")
    block = state.get("blocksize")
    if isinstance(block, bool) or not isinstance(block, int) or block not in BLOCKS:
        raise ValueError(f"blocksize must be a power of two of {BLOCKS[0]}..{BLOCKS[-1]}, not {block!r}")
    shape = state.get("shape")
    if "nested_blocksize" in state or not isinstance(shape, list) or len(shape) != 2:
        return None
    dtypes = {name: dtype for dtype, name in DTYPE_NAMES.items()}
    dtype = dtypes[checks.choice("dtype", str(state.get("dtype")).removeprefix("torch."), dtypes)]
    rows, cols = shape_of(state, 2)
    if not fits(kind, block, cols) or infos.get("weight", ("U8",))[0] != "U8":
        return None
    scheme = Scheme(kind, block, dtype)
    parts = scheme.parts((rows, cols))
    name = parts["state"].name
    parts["state"] = Part(name, "U8", (state_bytes,))  # others write their JSON with other blanks
    check_parts(parts, infos)
    return scheme, (rows, cols)


def quantization_config(kind: str, dtype: str, others: Iterable[str] = ()) -> dict[str, Any]:
    """The object for config.json. dtype: in which products are computed. others: modules whose matrices stay as they
    were."""
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_compute_dtype": DTYPE_NAMES[dtype],
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_use_double_quant": False,
        "llm_int8_skip_modules": sorted(set(others)),  # never null, which is the reader's own choice
    }
