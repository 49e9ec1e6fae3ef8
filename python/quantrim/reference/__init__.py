"""The specification: what every kernel computes, in numpy, down to the bit.

Names and parameters are those of the compiled module. Outputs are arrays passed in; a function that reads weights
returns whether they were all finite. There are no argument checks and no tricks here: read it to learn what a
kernel means.
"""

from .importance import magnitude, norm_columns, norm_rows, product_magnitude, uniform, wanda
from .packing import pack, unpack
from .pruning import (
    apply_mask,
    count_nonzero,
    is_finite,
    lowest_mask,
    n_of_m_mask,
    prune_lowest,
    prune_n_of_m,
    threshold,
)
from .quantization import dequantize, errors, fit_tensor, quantize, ranges, round_to_int
from .sparse import sparse_check, sparse_decode, sparse_encode, sparse_product, stored_per_row

__all__ = [
    "apply_mask",
    "count_nonzero",
    "dequantize",
    "errors",
    "fit_tensor",
    "is_finite",
    "lowest_mask",
    "magnitude",
    "n_of_m_mask",
    "norm_columns",
    "norm_rows",
    "pack",
    "product_magnitude",
    "prune_lowest",
    "prune_n_of_m",
    "quantize",
    "ranges",
    "round_to_int",
    "sparse_check",
    "sparse_decode",
    "sparse_encode",
    "sparse_product",
    "stored_per_row",
    "threshold",
    "uniform",
    "unpack",
    "wanda",
]
