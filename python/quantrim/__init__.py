"""quantrim makes neural-network weights smaller on a CPU."""

from . import importance, reference, sparse
from .backend import current_isa, current_threads, isas, use_isa, use_threads
from .files import open_checkpoint
from .model import compress
from .packing import pack, unpack
from .pruning import apply_mask, prune, prune_mask, sparsity, threshold
from .quantization import dequantize, quantize, round_to_int
from .sparse_tensor import SparseTensor
from .tensor import QuantizedTensor

__version__ = "0.1.0"

__all__ = [
    "QuantizedTensor",
    "SparseTensor",
    "apply_mask",
    "compress",
    "current_isa",
    "current_threads",
    "dequantize",
    "importance",
    "isas",
    "open_checkpoint",
    "pack",
    "prune",
    "prune_mask",
    "quantize",
    "reference",
    "round_to_int",
    "sparse",
    "sparsity",
    "threshold",
    "unpack",
    "use_isa",
    "use_threads",
]
