"""Weights that are already quantized: found by a look at the whole tensor, packed without any change."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..checks import Array
from ..layouts import codebook
from ..layouts.compressed_tensors import SCALE_DTYPES
from ..recognition import recognize_grid
from ..tensor import GroupSize, QuantizedTensor
from .chunks import Chunk
from .code_stream import Coded
from .forms import form_bytes
from .settings import Settings
from .source import Source
from .stream import Pruned
from .tensor_plan import TensorPlan

GROUP_SIZES: tuple[GroupSize, ...] = ("tensor", "channel", 256, 128, 64, 32, 16)  # tried where none is asked for


class Recognized(Coded):
    """The whole tensor at once, as nothing but all of it says which values there are."""

    def cut(self, chunk_bytes: int) -> Iterator[Chunk]:
        yield Chunk(0, self.rows, 0, self.cols)

    def coded(self, x: Array) -> QuantizedTensor:
        q = recognize_grid(x, group_size=self.group_size)
        if q is None:  # then its plan was made without them
            q = recognize_grid(_without_minus_zeros(x), group_size=self.group_size)
        assert q is not None
        return q


def looked_at(source: Source, tensor: TensorPlan) -> TensorPlan:
    """The plan of a tensor that settings ask to recognize: its grid, or what it was to become."""
    rows, cols = tensor.info.matrix_shape
    stream = Pruned(source, tensor, None, None, {})  # which says where in the tensor an error is
    form, minus_zeros = stream.attempt(Chunk(0, rows, 0, cols), lambda x: _with_either_zero(x, tensor))
    settings = tensor.settings
    if form is not None:
        kept = Settings(bits=None, group_size=form.group_size, recognize=True)  # neither pruned nor rounded
        why = "already quantized: no bit is changed"
        if minus_zeros:
            why += f" but the sign of {minus_zeros} minus zeros"
        found = tensor._replace(settings=kept, scheme=None, form=form, stored=form.label, reason=why)
        return found._replace(looked=True, exact=True)
    if settings.rounds or settings.changes or settings.storage == "sparse":
        return tensor._replace(looked=True)
    return tensor._replace(copied=True, looked=True, reason="not quantized, and nothing else is asked for")


def _with_either_zero(x: Array, tensor: TensorPlan) -> tuple[codebook.Scheme | None, int]:
    """The smallest grid; where there is none, that of x with 0 for -0 (what a mask makes of negative weights), and how
    many those are."""
    form = _smallest(x, tensor)
    minus_zeros = 0 if form else int(np.count_nonzero(np.signbit(x) & (x == 0)))
    return (_smallest(_without_minus_zeros(x), tensor), minus_zeros) if minus_zeros else (form, 0)


def _without_minus_zeros(x: Array) -> Array:
    return np.where(x == 0, x.dtype.type(0), x)


def _smallest(x: Array, tensor: TensorPlan) -> codebook.Scheme | None:
    """The grid that needs the fewest bytes, the first of equals; None where none needs fewer than the weights."""
    wanted = tensor.settings.group_size
    best, least = None, tensor.info.nbytes
    for size in GROUP_SIZES if wanted is None else (wanted,):
        if isinstance(size, int) and wanted is None and x.shape[1] % size:
            continue
        q = recognize_grid(x, group_size=size)
        if q is None:
            continue
        form = _form_of(q, tensor.info.dtype, size)
        nbytes = form_bytes(form, tensor.info)
        if nbytes < least:
            best, least = form, nbytes
    return best


def _form_of(q: QuantizedTensor, dtype: str, size: GroupSize) -> codebook.Scheme:
    if q.codebook is not None:
        return codebook.Scheme("values", q.bits, "tensor", dtype, None, len(q.codebook))
    return codebook.Scheme("grid", q.bits, size, dtype, _scale_dtype(q.scales), symmetric=q.symmetric)


def _scale_dtype(scales: Array) -> str:
    """The smallest that holds all of them exactly."""
    with np.errstate(over="ignore"):
        return next(
            name
            for name in ("float16", "bfloat16", "float32")
            if np.array_equal(scales.astype(SCALE_DTYPES[name][1]).astype(np.float32), scales)
        )
