"""quantrim makes neural-network weights smaller on a CPU."""

from . import importance, reference
from .backend import current_isa, current_threads, isas, use_isa, use_threads
from .codebooks import cluster, quantize_codebook
from .files import open_checkpoint
from .model import compress
from .packing import pack, unpack
from .pruning import apply_mask, prune, prune_mask, sparsity, threshold
from .quantization import dequantize, quantize, round_to_int
from .recognition import recognize_grid
from .tensor import QuantizedTensor

__version__ = "0.1.0"

__all__ = [
    "QuantizedTensor",
    "apply_mask",
    "cluster",
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
    "quantize_codebook",
    "recognize_grid",
    "reference",
    "round_to_int",
    "sparsity",
    "threshold",
    "unpack",
    "use_isa",
    "use_threads",
]
