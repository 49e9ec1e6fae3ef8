"""Tensors in our own layouts, read back: rows on demand, from files that are not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checks import Array
from ..files import Checkpoint, FormatError, TensorInfo
from ..layouts import codebook
from ..tensor import QuantizedTensor
from .entries import KEY, entries_of
from .logical_tensor import LogicalTensor

_CODE_PARTS = (codebook.CODES, "weight_scale", "weight_zero_point", "weight_codebook")


@dataclass(frozen=True)
class CodedTensor(LogicalTensor):
    """Codes of any grid. grid: how they are stored."""

    grid: codebook.Scheme

    @property
    def compressed(self) -> bool:
        return True

    @property
    def coded(self) -> bool:
        return True

    def decode_rows(self, first: int, count: int) -> QuantizedTensor:
        found = {}
        for role, part in self.grid.parts((self.shape[0], self.shape[1])).items():
            whole = len(part.shape) == 1 or part.shape[0] != self.shape[0]  # for all rows
            name = self.parts[part.name].name
            found[role] = self.checkpoint.read(name) if whole else self.checkpoint.rows(name, first, count)
        return codebook.decode(found, self.grid, (count, self.shape[1]))


def stored_tensors(checkpoint: Checkpoint) -> dict[str, LogicalTensor]:
    """The tensors in our own layouts, by name. An entry none of whose parts is there is that of another shard."""
    found: dict[str, LogicalTensor] = {}
    for name, entry in entries_of(checkpoint).items():
        module = name.removesuffix(".weight")
        parts = _parts(checkpoint, module, _CODE_PARTS)
        if not parts:
            continue
        path = next(iter(parts.values())).path
        if name in checkpoint.tensors:
            raise FormatError("must not be there beside its parts", path=path, tensor=name)
        try:
            found[name] = _coded(checkpoint, name, entry, parts)
        except FormatError:
            raise
        except (ValueError, TypeError) as error:
            raise FormatError(f"{KEY}: {error}", path=path, tensor=name) from None
    return found


def _parts(checkpoint: Checkpoint, module: str, names: tuple[str, ...]) -> dict[str, TensorInfo]:
    return {part: checkpoint.tensors[f"{module}.{part}"] for part in names if f"{module}.{part}" in checkpoint.tensors}


def _coded(
    checkpoint: Checkpoint, name: str, entry: Mapping[str, Any], parts: Mapping[str, TensorInfo]
) -> LogicalTensor:
    grid, shape = codebook.from_entry(entry, {part: (info.dtype, info.shape) for part, info in parts.items()})
    return CodedTensor(name, shape, codebook.DTYPES[grid.dtype], grid.label, parts, None, checkpoint, grid)
