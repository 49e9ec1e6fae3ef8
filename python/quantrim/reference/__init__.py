"""The specification: what every kernel computes, in numpy, down to the bit.

Names and parameters are those of the compiled module. Outputs are arrays passed in; a function that reads weights
returns whether they were all finite. There are no argument checks and no tricks here: read it to learn what a
kernel means.
"""

from .codebooks import (
    dequantize_codebook,
    fit_clusters,
    fit_grids,
    fit_ternary,
    magnitude_sums,
    quantize_codebook,
)
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

__all__ = [
    "apply_mask",
    "count_nonzero",
    "dequantize",
    "dequantize_codebook",
    "errors",
    "fit_clusters",
    "fit_grids",
    "fit_tensor",
    "fit_ternary",
    "is_finite",
    "lowest_mask",
    "magnitude",
    "magnitude_sums",
    "n_of_m_mask",
    "norm_columns",
    "norm_rows",
    "pack",
    "product_magnitude",
    "prune_lowest",
    "prune_n_of_m",
    "quantize",
    "quantize_codebook",
    "ranges",
    "round_to_int",
    "threshold",
    "uniform",
    "unpack",
    "wanda",
]
