"""In which of our own forms a tensor is stored, from its header and settings alone."""

from __future__ import annotations

from functools import lru_cache

from ..files import TensorInfo
from ..files.safetensors import count_bytes
from ..layouts import bitsandbytes, codebook, sparse_scheme
from ..layouts import compressed_tensors as layout
from ..layouts.compressed_tensors import Part
from ..words import CODEBOOKS
from .methods import MX
from .pruner import removed
from .reader_modules import WEIGHT
from .settings import Settings

Form = codebook.Scheme | sparse_scheme.Scheme | bitsandbytes.Scheme

WORTH = 4  # sparse storage is chosen where it saves at least 1 / WORTH of the dense bytes
_SHAPES = 1024  # that are remembered: of a hundred thousand tensors most are of few
_BITS = {"nf4": 4, "fp4": 4, "mxfp4": 4, "mxint8": 8, "binary": 1, "ternary": 2}


def code_form(
    info: TensorInfo, settings: Settings, asked_scale_dtype: str | None
) -> codebook.Scheme | bitsandbytes.Scheme | None:
    """The form of codes of a codebook or of shared values; None where the settings ask for neither.

    NF4 and FP4 are stored as bitsandbytes has them, with its float32 scales, where its blocks fit the rows; bfloat16
    scales are asked for on purpose.
    """
    dtype = decoded_dtype(info)
    if settings.clusters is not None:
        k, each = settings.clusters, settings.group != "tensor"
        return codebook.Scheme("clusters", (k - 1).bit_length(), settings.group, dtype, None, k, each)
    book = settings.codebook
    if book is None:
        return None
    if isinstance(book, str):
        assert book in CODEBOOKS
        group = settings.group
        matrix = len(info.shape) == 2 and info.name.endswith(WEIGHT) and asked_scale_dtype != "bfloat16"
        if matrix and isinstance(group, int) and bitsandbytes.fits(book, group, info.matrix_shape[1]):
            return bitsandbytes.Scheme(book, group, dtype)
        scale_dtype = codebook.POWERS if book in MX else settings.scale_dtype
        return codebook.Scheme(book, _BITS[book], settings.group, dtype, scale_dtype)
    bits = max(1, (len(book) - 1).bit_length())
    return codebook.Scheme("table", bits, settings.group, dtype, settings.scale_dtype, len(book))


def sparse_form(info: TensorInfo, settings: Settings, grid: layout.Scheme | None) -> sparse_scheme.Scheme | None:
    """The sparse form, `stored` being the most that it can be; None where the dense one is to be taken.

    grid: of the codes, None where weights keep their dtype.
    """
    # decoded as the dense form would be
    dtype = decoded_dtype(info) if grid is None else layout.SCALE_DTYPES[grid.scale_dtype][0]
    form = sparse_scheme.Scheme(dtype, info.size - removed(settings, info.matrix_shape), grid)
    if settings.storage == "sparse":
        return form
    if settings.storage == "dense" or grid is None or not settings.sparsity:
        return None
    dense = form_bytes(grid, info)
    return form if (dense - form_bytes(form, info)) * WORTH >= dense else None


@lru_cache(_SHAPES)
def form_parts(form: Form | layout.Scheme, shape: tuple[int, int]) -> dict[str, Part]:
    """What a matrix of this shape is stored as, by role; not to be changed."""
    return layout.parts(form, shape) if isinstance(form, layout.Scheme) else form.parts(shape)


def form_bytes(form: Form | layout.Scheme, info: TensorInfo) -> int:
    """All parts together."""
    return _bytes_of_parts(form, info.matrix_shape)


@lru_cache(_SHAPES)
def _bytes_of_parts(form: Form | layout.Scheme, shape: tuple[int, int]) -> int:
    return sum(count_bytes(part.dtype, part.shape) for part in form_parts(form, shape).values())


def pruned_bytes(info: TensorInfo, kept: int) -> int:
    """A tensor of which `kept` weights are left, without codes: sparse or as it was, whatever is smaller."""
    return min(info.nbytes, form_bytes(sparse_scheme.Scheme(decoded_dtype(info), kept), info))


def decoded_dtype(info: TensorInfo) -> str:
    return "F32" if info.dtype == "F64" else info.dtype
