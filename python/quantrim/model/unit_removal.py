"""Units that leave chains of linear layers before anything else happens to these: their rows, and the columns after."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
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


# Keys of config.json for the units between the two layers of a block, and for the number of blocks.
_WIDTHS = ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "hidden_dim")
_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")

Modules = tuple[str, ...]  # that share their units, as the gate of a gated layer does with what it gates


@dataclass(frozen=True)
class UnitRemoval:
    """layers: modules of a chain, each with a .weight (out, in) and perhaps a .bias; the output of one, and nothing
    else, is the input of the next. Several in place of one share their units: what they put out is multiplied. A `*`
    stands for one part of a name, the same in all: a chain for each. round(sparsity * n) units of each layer but the
    last go, those of the lowest score, the first among equals: "l1" or "l2" of their weights, or "given", by the
    tensors (out,) of the weights' names (of modules that share units the first) in the checkpoint `data`. activation:
    between the layers, for what removed units put out by their bias, which is added to the next bias; None where that
    is nothing."""

    layers: tuple[str | Modules, ...]
    sparsity: float
    score: str = "l2"
    data: str | None = None
    activation: str | None = None

    def __post_init__(self) -> None:
        layers = self.layers
        if not isinstance(layers, (list, tuple)) or not all(map(_are_modules, layers)):
            raise TypeError(f"layers must be a list of module names, or of lists of such, not {quote(layers)}")
        object.__setattr__(self, "layers", tuple(m if isinstance(m, str) else tuple(m) for m in layers))
        names = [name for modules in self.chain for name in modules]
        if len(layers) < 2 or len(set(names)) != len(names):
            raise ValueError(f"layers must be two different modules or more, in order, not {list(layers)}")
        if len({name.count("*") for name in names}) > 1:
            raise ValueError(f"layers must have as many * in each name, not {list(layers)}")
        if self.activation is not None and any(len(modules) > 1 for modules in self.chain):
            raise ValueError("activation must not be given where modules share their units")
        object.__setattr__(self, "sparsity", checks.number("sparsity", self.sparsity, 0.0, 1.0))
        checks.choice("score", self.score, SCORES)
        if self.activation is not None:
            checks.choice("activation", self.activation, tuple(ACTIVATIONS))
        if (self.data is None) == (self.score == "given"):
            must = "be given with score='given'" if self.data is None else f"not be given with score={self.score!r}"
            raise ValueError(f"data must {must}")
        if self.data is not None:
            object.__setattr__(self, "data", str(named_path(self.data, "data")))

    @property
    def chain(self) -> tuple[Modules, ...]:
        """The layers, each as modules that share their units."""
        return tuple((layer,) if isinstance(layer, str) else layer for layer in self.layers)

    def chains(self, tensors: Iterable[str]) -> Iterator[tuple[Modules, ...]]:
        """The chains of a checkpoint with these tensors: one, or one for each module that the first name matches."""
        first = self.chain[0][0]
        if "*" not in first:
            yield self.chain
            return
        pattern = re.compile(re.escape(first).replace(r"\*", "([^.]+)") + r"\.weight")
        for match in filter(None, map(pattern.fullmatch, tensors)):
            yield tuple(tuple(_filled(name, match.groups()) for name in modules) for modules in self.chain)

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


@dataclass(frozen=True)
class Removed:
    """What was done, by tensor, and the numbers of config.json that follow from it."""

    reasons: dict[str, str]
    config: dict[str, int]


def remove_from(checkpoint: Checkpoint, removals: Sequence[UnitRemoval], folder: Path | None) -> Removed:
    """Replace the layers of an open checkpoint by smaller ones, which it holds in memory from then on. ValueError or
    FormatError for layers that are no such chain, before any is replaced."""
    reasons: dict[str, str] = {}
    smaller: dict[str, Array] = {}
    widths: list[tuple[int, int]] = []
    for removal in removals:
        chains = list(removal.chains(checkpoint.tensors))
        if not chains:
            wanted = f"must have a module {quote(removal.chain[0][0])} for remove_units, but none matches"
            raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)} {wanted}")
        with nullcontext() if removal.data is None else open_checkpoint((folder or Path()) / removal.data) as data:
            for chain in chains:
                for name, array, what in _smaller(checkpoint, removal, chain, data):
                    if name in smaller:
                        raise ValueError(f"{_at(checkpoint, name)} must be in one table of remove_units, not two")
                    smaller[name] = array
                    if what:
                        reasons[name] = what
                first = f"{chain[0][0]}.weight"
                widths.append((checkpoint.tensors[first].shape[0], len(smaller[first])) if len(chain) == 2 else (0, 0))
    for name, array in smaller.items():
        checkpoint.hold(name, array)
    return Removed(reasons, _config(checkpoint.config or {}, widths))


def _config(config: Mapping[str, Any], widths: Sequence[tuple[int, int]]) -> dict[str, int]:
    """The one number that changes where every block of a model lost as many units, (before, after)."""
    keys = [key for key in _WIDTHS if widths and config.get(key) == widths[0][0]]
    every = any(config.get(key) == len(widths) for key in _DEPTHS)
    return {keys[0]: widths[0][1]} if every and len(keys) == 1 and len(set(widths)) == 1 else {}


def _smaller(
    checkpoint: Checkpoint, removal: UnitRemoval, chain: tuple[Modules, ...], data: Checkpoint | None
) -> Iterator[tuple[str, Array, str]]:
    """The tensors of a chain after their units are removed, with what was done to each."""
    layers = [[_layer(checkpoint, module) for module in modules] for modules in chain]
    keep: list[Array] = []
    for modules, shared in zip(chain[:-1], layers[:-1], strict=True):
        units = [len(weight) for weight, _ in shared]
        if len(set(units)) > 1:
            path = quote(checkpoint.path, PATH_LIMIT)
            raise ValueError(f"{path}, {list(modules)} must have as many units each to share them, not {units}")
        scores = _scores(modules[0], [weight for weight, _ in shared], removal.score, data)
        keep.append(prune_mask(scores, removal.sparsity))
        if not keep[-1].any():
            raise ValueError(f"{_at(checkpoint, f'{modules[0]}.weight')} must keep a unit, not lose all {units[0]}")
    act = None if removal.activation is None else ACTIVATIONS[removal.activation]
    folded = None if act is None else lambda bias: act(bias.astype(np.float64))
    for turn in range(max(map(len, chain))):  # of modules that share units each has its turn to stand for all
        through = [shared[min(turn, len(shared) - 1)] for shared in layers]
        try:
            found = remove_units(through, keep, folded)
        except ValueError as error:
            raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)}, {list(removal.layers)}: {error}") from None
        for k, (modules, (weight, bias)) in enumerate(zip(chain, found, strict=True)):
            if turn >= len(modules):
                continue
            said = [f"{np.count_nonzero(~keep[k])} of {keep[k].size} units removed"] if k < len(keep) else []
            said += [f"{np.count_nonzero(~keep[k - 1])} inputs with them"] if k else []
            yield f"{modules[turn]}.weight", weight, ", ".join(said)
            if bias is not None and through[k][1] is None:
                at = _at(checkpoint, f"{modules[turn]}.weight")
                raise ValueError(f"{at} needs a bias for what removed units put out")
            if bias is not None:
                yield f"{modules[turn]}.bias", bias, said[0] if k < len(keep) else ""


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


def _scores(module: str, weights: list[Array], score: str, data: Checkpoint | None) -> Array:
    """A score for each unit of the modules that share them, of which `module` is the first. data: where they are
    given."""
    units = weights[0].shape[:1]
    if data is None:
        norm = importance.l1 if score == "l1" else importance.l2
        scores: Array = norm(weights[0] if len(weights) == 1 else np.concatenate(weights, axis=1), axis=1)
        return scores
    name = f"{module}.weight"
    if name not in data:
        raise FormatError(f"data must have a tensor {quote(name)} of scores", path=data.path)
    info = data.tensors[name]
    if info.dtype not in DTYPES or info.shape != units:
        wanted = f"scores of shape {units} in {', '.join(DTYPES)}"
        raise FormatError(f"must be {wanted}, not {info.dtype} of {info.shape}", path=info.path, tensor=name)
    return _finite(data, info, "scores")


def _finite(checkpoint: Checkpoint, info: TensorInfo, what: str) -> Array:
    x = checkpoint.read(info.name)
    error = not_finite(what, info, x, 0)
    if error is not None:
        raise error
    return x


def _are_modules(layer: object) -> bool:
    """A name, or a list of names."""
    if isinstance(layer, (list, tuple)):
        return bool(layer) and all(isinstance(name, str) for name in layer)
    return isinstance(layer, str)


def _filled(name: str, parts: Sequence[str]) -> str:
    """A name with its * replaced by these parts."""
    texts = name.split("*")
    return "".join(text + part for text, part in zip(texts, [*parts, ""], strict=True))


def _at(checkpoint: Checkpoint, name: str) -> str:
    return f"{quote(checkpoint.path, PATH_LIMIT)}, tensor {quote(name)}"
