"""Units that leave chains of linear layers before anything else happens to these: their rows, and the columns after."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks, importance
from ..checks import Array
from ..files import Checkpoint, FormatError, TensorInfo, open_checkpoint
from ..files.descriptors import named_path
from ..files.errors import PATH_LIMIT, quote
from ..pruning import prune_mask
from ..splitting import remove_units
from .source import not_finite

SCORES = ("l1", "l2", "given")
DTYPES = ("F32", "F16", "BF16")
# What a unit without inputs puts out, given its bias; 0 at 0, so that no layer needs a bias that it had not.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


@dataclass(frozen=True)
class UnitRemoval:
    """layers: modules of a chain, each with a .weight (out, in) and perhaps a .bias; the output of one, and nothing
    else, is the input of the next. round(sparsity * n) units of each but the last go, those of the lowest score, the
    first among equals: "l1" or "l2" of their weights, or "given", by the tensors (out,) of the weights' names in the
    checkpoint `data`. activation: between the layers, for what removed units put out by their bias, which is added to
    the next bias; None where that is nothing."""

    layers: tuple[str, ...]
    sparsity: float
    score: str = "l2"
    data: str | None = None
    activation: str | None = None

    def __post_init__(self) -> None:
        layers = self.layers
        if not isinstance(layers, (list, tuple)) or not all(isinstance(layer, str) for layer in layers):
            raise TypeError(f"layers must be a list of module names, not {quote(layers)}")
        if len(layers) < 2 or len(set(layers)) != len(layers):
            raise ValueError(f"layers must be two different modules or more, in order, not {list(layers)}")
        object.__setattr__(self, "layers", tuple(layers))
        object.__setattr__(self, "sparsity", checks.number("sparsity", self.sparsity, 0.0, 1.0))
        checks.choice("score", self.score, SCORES)
        if self.activation is not None:
            checks.choice("activation", self.activation, tuple(ACTIVATIONS))
        if (self.data is None) == (self.score == "given"):
            must = "be given with score='given'" if self.data is None else f"not be given with score={self.score!r}"
            raise ValueError(f"data must {must}")
        if self.data is not None:
            object.__setattr__(self, "data", str(named_path(self.data, "data")))

    @classmethod
    def from_dict(cls, where: str, table: Mapping[str, Any]) -> UnitRemoval:
        """From a table of a recipe; `where` is for errors."""
        known = [f.name for f in fields(cls)]
        for key in table:
            if key not in known:
                raise ValueError(f"{where} must have keys among {', '.join(known)}, not {quote(key)}")
        for key in ("layers", "sparsity"):
            if key not in table:
                raise ValueError(f"{where} must have {key}")
        try:
            return cls(**table)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{where}: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """The table that `from_dict` reads; nothing that is as by default."""
        table = {f.name: getattr(self, f.name) for f in fields(self)}
        return {key: value for key, value in table.items() if value is not None and (key, value) != ("score", "l2")}


def remove_from(checkpoint: Checkpoint, removals: Sequence[UnitRemoval], folder: Path | None) -> dict[str, str]:
    """Replace the layers of an open checkpoint by smaller ones, which it holds in memory from then on; what was done,
    by tensor. ValueError or FormatError for layers that are no such chain, before any is replaced."""
    done: dict[str, str] = {}
    smaller: dict[str, Array] = {}
    for removal in removals:
        for name, array, what in _smaller(checkpoint, removal, folder or Path()):
            if name in smaller:
                raise ValueError(f"{_at(checkpoint, name)} must be in one table of remove_units, not two")
            smaller[name] = array
            if what:
                done[name] = what
    for name, array in smaller.items():
        checkpoint.hold(name, array)
    return done


def _smaller(checkpoint: Checkpoint, removal: UnitRemoval, folder: Path) -> list[tuple[str, Array, str]]:
    """The tensors of a chain after their units are removed, with what was done to each."""
    layers = [_layer(checkpoint, module) for module in removal.layers]
    keep = []
    for module, (weight, _) in zip(removal.layers[:-1], layers[:-1], strict=True):
        keep.append(prune_mask(_scores(module, weight, removal, folder), removal.sparsity))
        if not keep[-1].any():
            raise ValueError(f"{_at(checkpoint, f'{module}.weight')} must keep a unit, not lose all {len(weight)}")
    act = None if removal.activation is None else ACTIVATIONS[removal.activation]
    try:
        found = remove_units(layers, keep, None if act is None else lambda bias: act(bias.astype(np.float64)))
    except ValueError as error:
        raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)}, {list(removal.layers)}: {error}") from None
    done = []
    for k, (module, (weight, bias)) in enumerate(zip(removal.layers, found, strict=True)):
        said = [f"{np.count_nonzero(~keep[k])} of {keep[k].size} units removed"] if k < len(keep) else []
        said += [f"{np.count_nonzero(~keep[k - 1])} inputs with them"] if k else []
        done.append((f"{module}.weight", weight, ", ".join(said)))
        if bias is not None:
            if layers[k][1] is None:
                raise ValueError(f"{_at(checkpoint, f'{module}.weight')} needs a bias for what removed units put out")
            done.append((f"{module}.bias", bias, said[0] if k < len(keep) else ""))
    return done


def _layer(checkpoint: Checkpoint, module: str) -> tuple[Array, Array | None]:
    names = [name for name in checkpoint.tensors if name.startswith(f"{module}.")]
    others = [name for name in names if name not in (f"{module}.weight", f"{module}.bias")]
    if f"{module}.weight" not in names:
        raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)} must have tensor {quote(f'{module}.weight')}")
    if others:
        raise ValueError(f"{_at(checkpoint, others[0])} must not be there: layers have a weight and a bias alone")
    weight = _floats(checkpoint, f"{module}.weight", 2)
    bias = _floats(checkpoint, f"{module}.bias", 1) if f"{module}.bias" in names else None
    return weight, bias


def _floats(checkpoint: Checkpoint, name: str, axes: int) -> Array:
    info = checkpoint.tensors[name]
    if info.dtype not in DTYPES or len(info.shape) != axes or not info.size:
        wanted = f"{', '.join(DTYPES)} of {'(out, in)' if axes == 2 else '(out,)'}"
        problem = f"must be {wanted} for units to be removed, not {info.dtype} of shape {info.shape}"
        raise FormatError(problem, path=info.path, tensor=name)
    return _finite(checkpoint, info, "weights")


def _scores(module: str, weight: Array, removal: UnitRemoval, folder: Path) -> Array:
    """A score for each unit of a layer."""
    if removal.data is None:
        norm = importance.l1 if removal.score == "l1" else importance.l2
        scores: Array = norm(weight, axis=1)
        return scores
    with open_checkpoint(folder / removal.data) as data:
        name = f"{module}.weight"
        if name not in data:
            raise FormatError(f"data must have a tensor {quote(name)} of scores", path=data.path)
        info = data.tensors[name]
        if info.dtype not in DTYPES or info.shape != weight.shape[:1]:
            wanted = f"scores of shape {weight.shape[:1]} in {', '.join(DTYPES)}"
            raise FormatError(f"must be {wanted}, not {info.dtype} of {info.shape}", path=info.path, tensor=name)
        return _finite(data, info, "scores")


def _finite(checkpoint: Checkpoint, info: TensorInfo, what: str) -> Array:
    x = checkpoint.read(info.name)
    error = not_finite(what, info, x, 0)
    if error is not None:
        raise error
    return x


def _at(checkpoint: Checkpoint, name: str) -> str:
    return f"{quote(checkpoint.path, PATH_LIMIT)}, tensor {quote(name)}"
