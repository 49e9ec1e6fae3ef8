"""Units that leave chains of linear layers before anything else happens to these: their rows, and the columns after."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from .. import checks
from ..checks import Array
from ..files import Checkpoint, open_checkpoint
from ..files.descriptors import named_path
from ..files.errors import PATH_LIMIT, quote
from ..splitting import remove_units
from .head_removal import Heads, config_of_heads, fewer_heads, heads_of
from .unit_layers import (
    Layer,
    at,
    has_matrix,
    kept,
    layer,
    refuse_attention,
    refuse_what_is_not_named,
    scores_of,
    values_of_units,
)

SCORES = ("l1", "l2", "given")
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


class Chain(NamedTuple):
    """The modules of a chain by name, and modules that are not in it."""

    modules: tuple[Modules, ...]
    apart: tuple[str, ...]


@dataclass(frozen=True)
class UnitRemoval:
    """layers: modules of a chain, each with a .weight (out, in) and perhaps a .bias; the output of one, and nothing
    else, is the input of the next. Several in place of one share their units: what they put out is multiplied. A module
    without a matrix, between two of them, has values of each unit, which follow: a batch norm, a layer norm. A `*`
    stands for one part of a name, the same in all: a chain for each. round(sparsity * n) units of each layer but the
    last go, or fewer, for a multiple of `multiple_of` to be left; those of the lowest score, the first among equals:
    "l1" or "l2" of their weights, or "given", by the tensors (out,) of the weights' names (of modules that share units
    the first) in the checkpoint `data`. activation: between the layers, for what removed units put out by their bias,
    which is added to the next bias; None where that is nothing. head_dim: for attention, layers = [[q, k, v], o]: units
    are heads of so many rows, those of keys and values with all heads of queries that they serve. apart: modules that
    are not in the chain, though by their names and sizes they may be."""

    layers: tuple[str | Modules, ...]
    sparsity: float
    score: str = "l2"
    data: str | None = None
    activation: str | None = None
    multiple_of: int = 1
    head_dim: int | None = None
    apart: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        layers = self.layers
        if not isinstance(self.apart, (list, tuple)) or not all(isinstance(name, str) for name in self.apart):
            raise TypeError(f"apart must be a list of module names, not {quote(self.apart)}")
        object.__setattr__(self, "apart", tuple(self.apart))
        if not isinstance(layers, (list, tuple)) or not all(map(_are_modules, layers)):
            raise TypeError(f"layers must be a list of module names, or of lists of such, not {quote(layers)}")
        object.__setattr__(self, "layers", tuple(m if isinstance(m, str) else tuple(m) for m in layers))
        names = [name for modules in self.chain for name in modules]
        if len(layers) < 2 or len(set(names)) != len(names):
            raise ValueError(f"layers must be two different modules or more, in order, not {list(layers)}")
        if len({name.count("*") for name in (*names, *self.apart)}) > 1:
            raise ValueError(f"layers must have as many * in each name, not {list(layers)}")
        object.__setattr__(self, "multiple_of", checks.integer("multiple_of", self.multiple_of, 1, 2**31))
        self._check_heads()
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

    def _check_heads(self) -> None:
        if self.head_dim is None:
            return
        object.__setattr__(self, "head_dim", checks.integer("head_dim", self.head_dim, 1, 2**31))
        if [len(modules) for modules in self.chain] != [3, 1] or self.activation is not None:
            wanted = "layers = [[queries, keys, values], output], and no activation"
            raise ValueError(f"head_dim must be given with {wanted}, not with {list(self.layers)}")

    @property
    def chain(self) -> tuple[Modules, ...]:
        """The layers, each as modules that share their units."""
        return tuple((layer,) if isinstance(layer, str) else layer for layer in self.layers)

    def chains(self, tensors: Iterable[str]) -> Iterator[Chain]:
        """The chains of a checkpoint with these tensors: one, or one for each module that the first name matches."""
        first = self.chain[0][0]
        if "*" not in first:
            yield Chain(self.chain, self.apart)
            return
        pattern = re.compile(re.escape(first).replace(r"\*", "([^.]+)") + r"\.weight")
        for match in filter(None, map(pattern.fullmatch, tensors)):
            filled = tuple(tuple(_filled(name, match.groups()) for name in modules) for modules in self.chain)
            yield Chain(filled, tuple(_filled(name, match.groups()) for name in self.apart))

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
        usual = {f.name: f.default for f in fields(self)}
        return {key: value for key, value in table.items() if value != usual[key]}


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
    done: list[tuple[UnitRemoval, Chain]] = []
    for removal in removals:
        chains = list(removal.chains(checkpoint.tensors))
        if not chains:
            wanted = f"must have a module {quote(removal.chain[0][0])} for remove_units, but none matches"
            raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)} {wanted}")
        with nullcontext() if removal.data is None else open_checkpoint((folder or Path()) / removal.data) as data:
            for chain in chains:
                fewer = _smaller if removal.head_dim is None else fewer_heads
                for name, array, what in fewer(checkpoint, removal, chain, data):
                    if name in smaller:
                        raise ValueError(f"{at(checkpoint, name)} must be in one table of remove_units, not two")
                    smaller[name] = array
                    if what:
                        reasons[name] = what
                done.append((removal, chain))
    before = [_sizes(checkpoint, *each) for each in done]
    for name, array in smaller.items():
        checkpoint.hold(name, array)
    after = [_sizes(checkpoint, *each) for each in done]
    return Removed(reasons, _config(checkpoint.config or {}, [removal for removal, _ in done], before, after))


def _sizes(checkpoint: Checkpoint, removal: UnitRemoval, chain: Chain) -> int | Heads:
    """What config.json may say of a chain: its heads, or the units between its two layers; 0 where it has more."""
    if removal.head_dim is not None:
        return heads_of(checkpoint, chain, removal.head_dim)
    layers = [modules for modules in chain.modules if has_matrix(checkpoint, modules[0])]
    return checkpoint.tensors[f"{layers[0][0]}.weight"].shape[0] if len(layers) == 2 else 0


def _config(
    config: Mapping[str, Any],
    removals: Sequence[UnitRemoval],
    before: Sequence[int | Heads],
    after: Sequence[int | Heads],
) -> dict[str, int]:
    """The numbers that change where every block of a model lost as many units, or as many heads."""
    found: dict[str, int] = {}
    depths = {config.get(key) for key in _DEPTHS}
    for head_dim in {removal.head_dim for removal in removals}:
        of = [k for k, removal in enumerate(removals) if removal.head_dim == head_dim]
        old, new = [before[k] for k in of], [after[k] for k in of]
        if len(of) not in depths:
            continue
        if head_dim is not None:
            found |= config_of_heads(config, head_dim, cast(list[Heads], old), cast(list[Heads], new))
            continue
        keys = [key for key in _WIDTHS if config.get(key) == old[0]]
        if len(keys) == 1 and len({*old}) == 1 and len({*new}) == 1:
            found[keys[0]] = cast(int, new[0])
    return found


def _smaller(
    checkpoint: Checkpoint, removal: UnitRemoval, chain: Chain, data: Checkpoint | None
) -> Iterator[tuple[str, Array, str]]:
    """The tensors of a chain after their units are removed, with what was done to each."""
    layers: list[Modules] = []
    between: dict[str, int] = {}  # modules without a matrix, with the number of the layer before them
    for k, modules in enumerate(chain.modules):
        if 0 < k < len(chain.modules) - 1 and len(modules) == 1 and _is_between(checkpoint, modules[0]):
            between[modules[0]] = len(layers) - 1
        else:
            layers.append(modules)
    read = [[layer(checkpoint, module) for module in modules] for modules in layers]
    if between and removal.activation is not None:
        raise ValueError(
            f"activation must not be given with {quote(next(iter(between)))}, which changes what units put out"
        )
    for modules in layers[:-1]:
        refuse_attention(checkpoint, modules)
    refuse_what_is_not_named(checkpoint, chain, layers)
    keep: list[Array] = []
    for modules, shared in zip(layers[:-1], read[:-1], strict=True):
        units = [len(weight) for weight, _ in shared]
        if len(set(units)) > 1:
            path = quote(checkpoint.path, PATH_LIMIT)
            raise ValueError(f"{path}, {list(modules)} must have as many units each to share them, not {units}")
        scores = scores_of(modules[0], [weight for weight, _ in shared], removal.score, data)
        keep.append(kept(scores, removal, at(checkpoint, f"{modules[0]}.weight")))
    yield from _cut(checkpoint, removal, layers, read, keep)
    for module, k in between.items():
        for name in values_of_units(checkpoint, module, keep[k].size):
            yield name, checkpoint.read(name)[keep[k]], f"{np.count_nonzero(~keep[k])} of {keep[k].size} units removed"


def _is_between(checkpoint: Checkpoint, module: str) -> bool:
    has = any(name.rpartition(".")[0] == module for name in checkpoint.tensors)
    return has and not has_matrix(checkpoint, module)


def _cut(
    checkpoint: Checkpoint,
    removal: UnitRemoval,
    layers: Sequence[Modules],
    read: Sequence[Sequence[Layer]],
    keep: Sequence[Array],
) -> Iterator[tuple[str, Array, str]]:
    """The tensors of the layers without the units that go."""
    act = None if removal.activation is None else ACTIVATIONS[removal.activation]
    folded = None if act is None else lambda bias: act(bias.astype(np.float64))
    for turn in range(max(map(len, layers))):  # of modules that share units each has its turn to stand for all
        through = [shared[min(turn, len(shared) - 1)] for shared in read]
        try:
            found = remove_units(through, keep, folded)
        except ValueError as error:
            raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)}, {list(removal.layers)}: {error}") from None
        for k, (modules, (weight, bias)) in enumerate(zip(layers, found, strict=True)):
            if turn >= len(modules):
                continue
            said = [f"{np.count_nonzero(~keep[k])} of {keep[k].size} units removed"] if k < len(keep) else []
            said += [f"{np.count_nonzero(~keep[k - 1])} inputs with them"] if k else []
            yield f"{modules[turn]}.weight", weight, ", ".join(said)
            if bias is not None and through[k][1] is None:
                where = at(checkpoint, f"{modules[turn]}.weight")
                raise ValueError(f"{where} needs a bias for what removed units put out")
            if bias is not None:
                yield f"{modules[turn]}.bias", bias, said[0] if k < len(keep) else ""


def _are_modules(layer: object) -> bool:
    """A name, or a list of names."""
    if isinstance(layer, (list, tuple)):
        return bool(layer) and all(isinstance(name, str) for name in layer)
    return isinstance(layer, str)


def _filled(name: str, parts: Sequence[str]) -> str:
    """A name with its * replaced by these parts."""
    texts = name.split("*")
    return "".join(text + part for text, part in zip(texts, [*parts, ""], strict=True))
