"""The specification: what every kernel computes, in numpy, down to the bit.

Names and parameters are those of the compiled module. Outputs are arrays passed in; a function that reads weights
returns whether they were all finite. There are no argument checks and no tricks here: read it to learn what a
kernel means.
"""

from ..float_environment import default_floats
from .activations import histogram, predictive, square_product
from .blocks import block_sums, multiply
from .codebooks import (
    dequantize_codebook,
    fit_clusters,
    fit_ternary,
    magnitude_sums,
    quantize_codebook,
)
from .distillation import distill
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
    shrink,
    threshold,
)
from .quantization import dequantize, errors, fit_tensor, quantize, ranges, round_to_int
from .recognition import fit_grids
from .selection import count_keys, mask_below, prune_below
from .sparse import sparse_check, sparse_decode, sparse_encode, sparse_product, stored_per_row

__all__ = [
    "apply_mask",
    "block_sums",
    "count_keys",
    "count_nonzero",
    "dequantize",
    "dequantize_codebook",
    "distill",
    "errors",
    "fit_clusters",
    "fit_grids",
    "fit_tensor",
    "fit_ternary",
    "histogram",
    "is_finite",
    "lowest_mask",
    "magnitude",
    "magnitude_sums",
    "mask_below",
    "multiply",
    "n_of_m_mask",
    "norm_columns",
    "norm_rows",
    "pack",
    "predictive",
    "product_magnitude",
    "prune_below",
    "prune_lowest",
    "prune_n_of_m",
    "quantize",
    "quantize_codebook",
    "ranges",
    "round_to_int",
    "shrink",
    "sparse_check",
    "sparse_decode",
    "sparse_encode",
    "sparse_product",
    "square_product",
    "stored_per_row",
    "threshold",
    "uniform",
    "unpack",
    "wanda",
]

for _name in __all__:  # kernels set their threads' mode themselves
    globals()[_name] = default_floats(globals()[_name])
