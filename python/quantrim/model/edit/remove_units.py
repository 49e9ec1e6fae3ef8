"""Units that leave chains of linear layers before anything else happens to these: their rows, and the columns after."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...checks import Array
from ...files import Checkpoint, open_checkpoint
from ...files.disk.errors import PATH_LIMIT, quote
from ...splitting import remove_units
from ..plan.types import Replaced
from ..recipe.unit_removal import Chain, Modules, UnitRemoval
from ..streaming.overlay import Overlay
from .remove_heads import Heads, config_of_heads, fewer_heads, heads_of
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


def remove_from(checkpoint: Checkpoint, removals: Sequence[UnitRemoval], folder: Path | None) -> Replaced:
    """Return smaller layers for those of an open checkpoint, which stays as it is. ValueError or FormatError for layers
    that are no such chain."""
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
    overlay = Overlay(checkpoint, smaller)
    after = [_sizes(overlay, *each) for each in done]
    return Replaced(smaller, reasons, _config(checkpoint.config or {}, [removal for removal, _ in done], before, after))


def _sizes(checkpoint: Checkpoint, removal: UnitRemoval, chain: Chain) -> int | Heads:
    """Return what config.json may say of a chain: its heads, or the units between its layers; 0 where it has more."""
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
    """Return the numbers that change where every block of a model lost as many units, or as many heads."""
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
    """Remove the units of a chain: its smaller tensors, with what was done to each."""
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
    """Cut the units that go from the tensors of the layers."""
    act = None if removal.activation is None else ACTIVATIONS[removal.activation]
    folded = None if act is None else lambda bias: act(bias.astype(np.float64))
    for turn in range(max(map(len, layers))):  # of modules that share units each has its turn to represent all
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
