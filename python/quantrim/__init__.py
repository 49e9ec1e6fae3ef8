"""quantrim makes neural-network weights smaller on a CPU.

Modules are loaded when a name of theirs is first used: what only wants a version or a help text pays for no more.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in typing, whose import would take longer than all that stands here
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
    from .backend import current_isa, current_threads, isas, use_isa, use_threads
    from .codebooks import cluster, quantize_codebook
    from .distillation import distillation_loss
    from .files import open_checkpoint
    from .model.compress import compress
    from .model.decompress import decompress
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
    "decompress",
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

_HOMES = {  # module -> public names that it has
    "backend": ("current_isa", "current_threads", "isas", "use_isa", "use_threads"),
    "codebooks": ("cluster", "quantize_codebook"),
    "distillation": ("distillation_loss",),
    "files": ("open_checkpoint",),
    "model.compress": ("compress",),
    "model.decompress": ("decompress",),
    "packing": ("pack", "unpack"),
    "pruning": (
        *("apply_mask", "cubic_sparsity", "global_masks", "prune", "prune_mask", "prune_model", "shrink"),
        *("sparsity", "threshold"),
    ),
    "quantization": ("dequantize", "quantize", "round_to_int"),
    "recognition": ("recognize_grid",),
    "sparse_tensor": ("SparseTensor",),
    "splitting": ("merge", "remove_units", "split"),
    "tensor": ("QuantizedTensor",),
}
_MODULES = (
    *("backend", "codebooks", "distillation", "files", "importance", "layouts", "model", "packing", "pruning"),
    *("quantization", "recognition", "reference", "sparse", "splitting"),
)
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        found = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
        globals()[name] = found  # from now on without this function
        return found
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
