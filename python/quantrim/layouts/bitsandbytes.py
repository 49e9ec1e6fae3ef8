"""The 4-bit layout of bitsandbytes for one weight matrix, which bitsandbytes and transformers read: NF4 and FP4.

Of a module: `weight` uint8 (bytes, 1), two codes in a byte, the first in the high half; `weight.absmax` float32, the
scale of each block of the flat tensor; `weight.quant_map` float32 (16,), the table; and
`weight.quant_state.bitsandbytes__nf4` (or fp4), bytes of JSON: quant_type, blocksize, dtype, shape. Only matrices whose
columns are a multiple of the block are written so: then blocks are groups of a row. What else bitsandbytes writes is
read by `bitsandbytes_variants`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..codebooks import table
from ..tensor import QuantizedTensor, columns_per_group
from . import bitsandbytes_variants as variants
from .base import (
    WEIGHT,
    Array,
    Arrays,
    Catalog,
    Chunk,
    Described,
    Encoder,
    Found,
    Infos,
    LayoutError,
    Shape,
    StoredTensor,
    WritableLayout,
    check_arrays,
    infos_of,
    shape_of,
)
from .bitsandbytes_variants import BLOCKS, DTYPE_NAMES, swapped

__all__ = ["KINDS", "STATE", "BitsAndBytes", "config_of", "find", "from_state", "quantization_config"]

KINDS = ("nf4", "fp4")
STATE = "quant_state.bitsandbytes__"  # then the kind
_STATE_LIMIT = 1 << 16  # bytes of a state
_ENDS = ("", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")


@dataclass(frozen=True)
class BitsAndBytes(WritableLayout):
    """kind: "nf4" or "fp4". group_size: of a block. dtype: of the weights once decoded, as safetensors has it."""

    kind: str
    group_size: int
    dtype: str
    bits: int = 4
    scale_dtype: str = "float32"
    family: ClassVar[str] = "bitsandbytes"
    readers: ClassVar[tuple[str, ...]] = ("transformers", "bitsandbytes")

    @property
    def error_array(self) -> str:
        return "weight.absmax"

    @property
    def label(self) -> str:
        """For people: "nf4 group 64, bitsandbytes"."""
        return f"{self.kind} group {self.group_size}, bitsandbytes"

    @property
    def decoded_dtype(self) -> str:
        return self.dtype

    def why_not(self, info: Described) -> str | None:
        if len(info.shape) != 2:
            return f"a matrix is wanted, not {len(info.shape)} axes"
        if not info.name.endswith(WEIGHT):
            return f"its name must end in {WEIGHT}"
        if self.kind not in KINDS or self.group_size not in BLOCKS or info.shape[1] % self.group_size:
            return f"blocks must be of {BLOCKS[0]}..{BLOCKS[-1]} and divide {info.shape[1]} columns"
        return None

    def stored(self, shape: Shape) -> dict[str, StoredTensor]:
        size = shape[0] * shape[1]
        return {
            "codes": StoredTensor("weight", "U8", (size // 2, 1)),
            "scale": StoredTensor("weight.absmax", "F32", (size // self.group_size,)),
            "map": StoredTensor("weight.quant_map", "F32", (16,)),
            "state": StoredTensor(f"weight.{STATE}{self.kind}", "U8", (len(self.state(shape)),)),
        }

    def encoder(self, shape: Shape, counts: Sequence[int] = ()) -> Encoder:
        return _Encoder(self, shape)

    def decode(self, arrays: Arrays, first: int, count: int, shape: Shape) -> QuantizedTensor:
        cols, group = shape[1], self.group_size
        codes = arrays.values("weight", np.uint8, first * cols // 2, count * cols // 2).reshape(count, cols // 2)
        groups = cols // group
        scales = arrays.values("weight.absmax", np.float32, first * groups, count * groups).reshape(count, groups)
        values = arrays.array("weight.quant_map")
        return QuantizedTensor(swapped(codes), scales, None, 4, group, (count, cols), values)

    def state(self, shape: Shape) -> bytes:
        """Return what names and shapes do not say."""
        values = {"quant_type": self.kind, "blocksize": self.group_size, "dtype": DTYPE_NAMES[self.dtype]}
        return json.dumps({**values, "shape": list(shape)}).encode()

    def quant_map(self) -> NDArray[np.float32]:
        """Return the table, by code."""
        return table(self.kind).values


class _Encoder(Encoder):
    def __init__(self, layout: BitsAndBytes, shape: Shape) -> None:
        self._layout, self._shape = layout, shape

    def encode(self, x: QuantizedTensor, chunk: Chunk) -> Iterator[tuple[str, int, Array]]:
        cols, group = self._shape[1], self._layout.group_size
        first = chunk.row * cols + chunk.col
        yield "codes", first // 2, swapped(x.data)
        yield "scale", first // columns_per_group(group, cols) * x.scales.itemsize, x.scales

    def finish(self) -> Iterator[tuple[str, int, Array]]:
        yield "map", 0, self._layout.quant_map()
        yield "state", 0, np.frombuffer(self._layout.state(self._shape), np.uint8)


def from_state(
    state: object, kind: str, infos: Infos, state_bytes: int
) -> tuple[BitsAndBytes, tuple[int, int]] | None:
    """Return layout and shape of a matrix, from its state and the (dtype, shape) of its arrays by name in the module.

    None for what bitsandbytes may write in another layout: nested scales, blocks that do not divide the columns, no
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
    if cols % block or infos.get("weight", ("U8",))[0] != "U8":
        return None
    layout = BitsAndBytes(kind, block, dtype)
    arrays = layout.stored((rows, cols))
    # others write their JSON with other blanks
    arrays["state"] = arrays["state"]._replace(shape=(state_bytes,))
    check_arrays(arrays, infos)
    return layout, (rows, cols)


def find(catalog: Catalog) -> Iterator[Found]:
    """Yield the tensors in these layouts; those in a variant that is not read are left out, and appear as they are."""
    for name, info in catalog.tensors.items():
        if name.endswith(".SCB"):
            found = variants.find_int8(catalog, name)
            if found is not None:
                yield found
        for kind in KINDS:
            weight = name.removesuffix(f".{STATE}{kind}")
            if weight not in ("", name) and info.dtype == "U8":
                yield _found(catalog, weight, kind)


def _found(catalog: Catalog, weight: str, kind: str) -> Found:
    state = f"{weight}.{STATE}{kind}"
    info = catalog.tensors[state]
    if info.nbytes > _STATE_LIMIT:
        raise LayoutError(f"a state must be at most {_STATE_LIMIT} bytes, not {info.nbytes}", state)
    names = {f"weight{end}": f"{weight}{end}" for end in (*_ENDS, f".{STATE}{kind}")}
    arrays = {array: name for array, name in names.items() if name in catalog.tensors}
    parsed = catalog.json(state)
    try:
        known = from_state(parsed, kind, infos_of(catalog, arrays), info.nbytes)
        if known is not None:
            return Found(weight, *known, arrays)
        known_arrays = {array: catalog.tensors[name] for array, name in arrays.items()}
        flat = variants.read(parsed, kind, {name: (i.dtype, i.size, i.nbytes) for name, i in known_arrays.items()})
    except (ValueError, TypeError) as error:
        raise LayoutError(str(error), state) from None
    return Found(weight, flat, flat.shape, arrays)


def config_of(
    layouts: Mapping[str, WritableLayout], others: Collection[str], absent: Iterable[str], renamed: Mapping[str, str]
) -> dict[str, Any]:
    """Return the `quantization_config` of modules in these layouts; empty unless all are in this one, of one kind."""
    ours = [each for each in layouts.values() if isinstance(each, BitsAndBytes)]
    if not ours or len(ours) < len(layouts) or len({each.kind for each in ours}) > 1:
        return {}
    # the reader takes a name of its list for the end of any name
    theirs = [renamed[module] for module in others if module in renamed]
    ends = [end for end in (*theirs, *absent) if not any(module.endswith(end) for module in layouts)]
    return quantization_config(ours[0].kind, ours[0].dtype, [*others, *ends])


def quantization_config(kind: str, dtype: str, others: Iterable[str] = ()) -> dict[str, Any]:
    """Return the object for config.json.

    dtype: in which products are computed. others: modules whose matrices stay as they were."""
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
