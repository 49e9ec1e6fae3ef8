"""quantrim makes neural-network weights smaller on a CPU.

Modules are loaded when a name of theirs is first used: arrays need neither the model floor nor the files below it, and
what only wants a version or a help text pays for no more.
"""

from __future__ import annotations

import importlib

from ._version import __version__ as __version__

TYPE_CHECKING = False  # as in typing, whose import would take longer than all that is here
if TYPE_CHECKING:  # for type checkers and editors: the names of _HOMES and _MODULES once more
    from typing import Any

    from . import backend as backend
    from . import codebooks as codebooks
    from . import distillation as distillation
    from . import files as files
    from . import importance as importance
    from . import layouts as layouts
    from . import model as model
    from . import packing as packing
    from . import pruning as pruning
    from . import quantization as quantization
    from . import recognition as recognition
    from . import reference as reference
    from . import sparse as sparse
    from . import splitting as splitting
    from .backend import isas, use_isa, use_threads
    from .codebooks import cluster, quantize_codebook
    from .model.compress import compress, plan
    from .model.decompress import decompress
    from .model.report.compare import compare
    from .model.report.inspect import inspect
    from .model.streaming.tensors import open_checkpoint
    from .model.tune import tune
    from .packing import pack, unpack
    from .pruning import apply_mask, prune, prune_mask, sparsity, threshold
    from .quantization import dequantize, quantize, round_to_int
    from .recognition import recognize_grid
    from .sparse_tensor import SparseTensor
    from .tensor import QuantizedTensor

_HOMES = {  # public name -> the module that has it, and its name there where that is another
    "QuantizedTensor": "tensor",
    "SparseTensor": "sparse_tensor",
    "apply_mask": "pruning",
    "cluster": "codebooks",
    "compare": "model.report.compare",
    "compress": "model.compress",
    "decompress": "model.decompress",
    "dequantize": "quantization",
    "inspect": "model.report.inspect",
    "isas": "backend",
    "open_checkpoint": "model.streaming.tensors",
    "pack": "packing",
    "plan": "model.compress",
    "prune": "pruning",
    "prune_mask": "pruning",
    "quantize": "quantization",
    "quantize_codebook": "codebooks",
    "recognize_grid": "recognition",
    "round_to_int": "quantization",
    "sparsity": "pruning",
    "threshold": "pruning",
    "tune": "model.tune",
    "unpack": "packing",
    "use_isa": "backend",
    "use_threads": "backend",
}
_MODULES = (
    *("backend", "codebooks", "distillation", "files", "importance", "layouts", "model", "packing", "pruning"),
    *("quantization", "recognition", "reference", "sparse", "splitting"),
)

__all__ = [
    "QuantizedTensor",
    "SparseTensor",
    "apply_mask",
    "backend",
    "cluster",
    "codebooks",
    "compare",
    "compress",
    "decompress",
    "dequantize",
    "distillation",
    "files",
    "importance",
    "inspect",
    "isas",
    "layouts",
    "model",
    "open_checkpoint",
    "pack",
    "packing",
    "plan",
    "prune",
    "prune_mask",
    "pruning",
    "quantization",
    "quantize",
    "quantize_codebook",
    "recognition",
    "recognize_grid",
    "reference",
    "round_to_int",
    "sparse",
    "sparsity",
    "splitting",
    "threshold",
    "tune",
    "unpack",
    "use_isa",
    "use_threads",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home, _, there = _HOMES[name].partition(":")
        found = getattr(importlib.import_module(f".{home}", __name__), there or name)
        globals()[name] = found  # from now on without this function
        return found
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
