"""The choice of a tensor's layout, from its header and settings alone."""

from __future__ import annotations

from ...files import TensorInfo
from ...layouts.base import SCALE_DTYPES, Grid
from ...layouts.bitsandbytes import BitsAndBytes
from ...layouts.codebook import POWERS, Codes
from ...layouts.compressed_tensors import CompressedTensors
from ...layouts.sparse_bitmask import Sparse
from ...tensor import matrix_shape
from ...words import MX_CODEBOOKS
from ..prune.methods import removed
from ..recipe.settings import Settings
from .types import layout_bytes

WORTH = 4  # sparse storage is chosen where it saves at least 1 / WORTH of the dense bytes
_BITS = {"nf4": 4, "fp4": 4, "mxfp4": 4, "mxint8": 8, "binary": 1, "ternary": 2}


def code_layout(info: TensorInfo, settings: Settings, asked_scale_dtype: str | None) -> Codes | BitsAndBytes | None:
    """Return the layout of codes of a codebook or of shared values; None where the settings ask for neither.

    NF4 and FP4 are kept as bitsandbytes has them, with its float32 scales, where its blocks fit the rows; bfloat16
    scales are asked for on purpose.
    """
    dtype = decoded_dtype(info)
    if settings.clusters is not None:
        k, each = settings.clusters, settings.group != "tensor"
        return Codes("clusters", (k - 1).bit_length(), settings.group, dtype, None, k, each)
    book = settings.codebook
    if book is None:
        return None
    if isinstance(book, str):
        if isinstance(settings.group, int) and asked_scale_dtype != "bfloat16":
            theirs = BitsAndBytes(book, settings.group, dtype)
            if theirs.why_not(info) is None:
                return theirs
        scale_dtype = POWERS if book in MX_CODEBOOKS else settings.scale_dtype
        return Codes(book, _BITS[book], settings.group, dtype, scale_dtype)
    bits = max(1, (len(book) - 1).bit_length())
    return Codes("table", bits, settings.group, dtype, settings.scale_dtype, len(book))


def own_grid(info: TensorInfo, settings: Settings) -> Codes:
    """Return our layout of codes of a uniform grid, for weights that no other layout takes."""
    assert settings.bits is not None
    group = settings.group
    if isinstance(group, int) and group >= info.matrix_shape[1]:
        group = "channel"
    symmetric = settings.symmetric
    return Codes("grid", settings.bits, group, decoded_dtype(info), settings.scale_dtype, symmetric=symmetric)


def sparse_layout(info: TensorInfo, settings: Settings, codes: CompressedTensors | None) -> Sparse | None:
    """Return the sparse layout, of the largest size that it can have; None where the dense one is to be taken.

    codes: the dense layout of codes, None where weights keep their dtype.
    """
    # decoded as the dense layout would be
    dtype = decoded_dtype(info) if codes is None else SCALE_DTYPES[codes.scale_dtype][0]
    nnz = info.size - removed(settings, info.matrix_shape)
    layout = _sparse(dtype, nnz, info.matrix_shape[0], None if codes is None else codes.grid)
    if settings.storage == "sparse":
        return layout
    if settings.storage == "dense" or codes is None or not settings.sparsity:
        return None
    dense = layout_bytes(codes, info.shape)
    return layout if (dense - layout_bytes(layout, info.shape)) * WORTH >= dense else None


def _sparse(dtype: str, nnz: int, rows: int, grid: Grid | None) -> Sparse:
    return Sparse(dtype, Sparse(dtype, 0, grid).most(nnz, rows), grid)


def pruned_bytes(info: TensorInfo, nnz: int) -> int:
    """Return the bytes of a tensor of which `nnz` weights are left, without codes: sparse or as it was, whatever is
    smaller."""
    sparse = _sparse(decoded_dtype(info), nnz, matrix_shape(info.shape)[0], None)
    return min(info.nbytes, layout_bytes(sparse, info.shape))


def decoded_dtype(info: TensorInfo) -> str:
    """Return the dtype of the weights of a tensor once they are decoded."""
    return "F32" if info.dtype == "F64" else info.dtype
