"""Floats, or whatever a tensor holds, as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..tensor import GroupSize, matrix_shape
from .base import Array, Arrays, Chunk, Described, Encoder, Shape, StoredTensor, WritableLayout


@dataclass(frozen=True)
class Plain(WritableLayout):
    """dtype: of the values, as safetensors has it."""

    dtype: str
    family: ClassVar[str] = "plain"

    @property
    def error_array(self) -> str:
        return ""

    @property
    def has_codes(self) -> bool:
        return False

    @property
    def label(self) -> str:
        return self.dtype

    @property
    def decoded_dtype(self) -> str:
        return self.dtype

    @property
    def bits(self) -> None:
        return None

    @property
    def group_size(self) -> GroupSize:
        return 1

    @property
    def scale_dtype(self) -> None:
        return None

    def why_not(self, info: Described) -> str | None:
        return None

    def stored(self, shape: Shape) -> dict[str, StoredTensor]:
        return {"weights": StoredTensor("", self.dtype, shape)}

    def encoder(self, shape: Shape, counts: Sequence[int] = ()) -> Encoder:
        return _Encoder(matrix_shape(shape)[1])

    def decode(self, arrays: Arrays, first: int, count: int, shape: Shape) -> Array:
        return arrays.rows("", first, count) if shape else arrays.array("").reshape(1, 1)


class _Encoder(Encoder):
    def __init__(self, cols: int) -> None:
        self._cols = cols

    def encode(self, x: Array, chunk: Chunk) -> Iterator[tuple[str, int, Array]]:
        yield "weights", (chunk.row * self._cols + chunk.col) * x.itemsize, x
