"""quantrim makes neural-network weights smaller on a CPU."""

from . import importance, reference, sparse
from .backend import current_isa, current_threads, isas, use_isa, use_threads
from .codebooks import cluster, quantize_codebook
from .distillation import distillation_loss
from .files import open_checkpoint
from .model import compress
from .packing import pack, unpack
from .pruning import (
    apply_mask,
    cubic_sparsity,
    global_masks,
    prune,
    prune_mask,
    prune_model,
    shrink,
    sparsity,
    threshold,
)
from .quantization import dequantize, quantize, round_to_int
from .recognition import recognize_grid
from .sparse_tensor import SparseTensor
from .splitting import merge, remove_units, split
from .tensor import QuantizedTensor

__version__ = "0.1.0"

__all__ = [
    "QuantizedTensor",
    "SparseTensor",
    "apply_mask",
    "cluster",
    "compress",
    "cubic_sparsity",
    "current_isa",
    "current_threads",
    "dequantize",
    "distillation_loss",
    "global_masks",
    "importance",
    "isas",
    "merge",
    "open_checkpoint",
    "pack",
    "prune",
    "prune_mask",
    "prune_model",
    "quantize",
    "quantize_codebook",
    "recognize_grid",
    "reference",
    "remove_units",
    "round_to_int",
    "shrink",
    "sparse",
    "sparsity",
    "split",
    "threshold",
    "unpack",
    "use_isa",
    "use_threads",
]
