"""quantrim makes neural-network weights smaller on a CPU."""

from . import importance, reference
from .backend import current_isa, current_threads, isas, use_isa, use_threads
from .distillation import distillation_loss
from .files import open_checkpoint
from .model import compress
from .packing import pack, unpack
from .pruning import apply_mask, prune, prune_mask, sparsity, threshold
from .quantization import dequantize, quantize, round_to_int
from .tensor import QuantizedTensor

__version__ = "0.1.0"

__all__ = [
    "QuantizedTensor",
    "apply_mask",
    "compress",
    "current_isa",
    "current_threads",
    "dequantize",
    "distillation_loss",
    "importance",
    "isas",
    "open_checkpoint",
    "pack",
    "prune",
    "prune_mask",
    "quantize",
    "reference",
    "round_to_int",
    "sparsity",
    "threshold",
    "unpack",
    "use_isa",
    "use_threads",
]
