"""Tensors in the 4-bit layout of bitsandbytes, read back by rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..files import Checkpoint, FormatError, strict_json
from ..layouts import bitsandbytes, codebook
from ..tensor import QuantizedTensor
from .logical_tensor import LogicalTensor

STATE_LIMIT = 1 << 16  # bytes of a state


@dataclass(frozen=True)
class BitsAndBytesTensor(LogicalTensor):
    """NF4 or FP4. form: how it is stored."""

    form: bitsandbytes.Scheme

    @property
    def compressed(self) -> bool:
        return True

    @property
    def coded(self) -> bool:
        return True

    @property
    def blamed(self) -> str:
        return self.parts["weight.absmax"].name

    def decode_rows(self, first: int, count: int) -> QuantizedTensor:
        cols, group = self.shape[1], self.form.group_size
        codes = np.empty((count, cols // 2), np.uint8)
        self.checkpoint.read_into(self.parts["weight"].name, codes, first * cols // 2)
        scales = np.empty((count, cols // group), np.dtype("<f4"))
        self.checkpoint.read_into(self.parts["weight.absmax"].name, scales, first * (cols // group) * 4)
        values = self.checkpoint.read(self.parts["weight.quant_map"].name)
        data = bitsandbytes.swapped(codes)
        return QuantizedTensor(data, scales.astype(np.float32), None, 4, group, (count, cols), values)


def bitsandbytes_tensors(checkpoint: Checkpoint) -> dict[str, LogicalTensor]:
    """The tensors in this layout, by name; those in a variant that is not read are left out, and appear as they are
    stored."""
    found: dict[str, LogicalTensor] = {}
    for name, info in checkpoint.tensors.items():
        for kind in bitsandbytes.KINDS:
            weight = name.removesuffix(f".{bitsandbytes.STATE}{kind}")
            if weight != name and weight.endswith(".weight") and info.dtype == "U8":
                tensor = _tensor(checkpoint, weight, kind)
                if tensor is not None:
                    found[weight] = tensor
    return found


def _tensor(checkpoint: Checkpoint, weight: str, kind: str) -> LogicalTensor | None:
    state = f"{weight}.{bitsandbytes.STATE}{kind}"
    info = checkpoint.tensors[state]
    if info.nbytes > STATE_LIMIT:
        problem = f"a state must be at most {STATE_LIMIT} bytes, not {info.nbytes}"
        raise FormatError(problem, path=info.path, tensor=state)
    module = weight.removesuffix("weight")
    names = [weight, f"{weight}.absmax", f"{weight}.quant_map", state]
    parts = {name.removeprefix(module): checkpoint.tensors[name] for name in names if name in checkpoint.tensors}
    infos = {name: (part.dtype, part.shape) for name, part in parts.items()}
    try:
        parsed = strict_json.parse(checkpoint.raw(state), info.path, f"tensor {state!r}", info.offset)
        known = bitsandbytes.from_state(parsed, kind, infos, info.nbytes)
    except FormatError:
        raise
    except (ValueError, TypeError) as error:
        raise FormatError(str(error), path=info.path, tensor=state) from None
    if known is None:
        return None
    form, shape = known
    return BitsAndBytesTensor(weight, shape, codebook.DTYPES[form.dtype], form.label, parts, None, checkpoint, form)
