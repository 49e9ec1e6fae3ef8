"""Heads that leave attention: rows of queries, keys and values, and the columns that read them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...checks import Array
from ...files import Checkpoint
from ...files.disk.errors import quote
from ..recipe.unit_removal import Chain, UnitRemoval
from .unit_layers import at, kept, layer, scores_of


class Heads(NamedTuple):
    """The numbers of heads of queries, and of keys and values, of one attention."""

    queries: int
    groups: int


def heads_of(checkpoint: Checkpoint, chain: Chain, head_dim: int) -> Heads:
    """Return the heads of one attention, each a query's; those of keys and values serve as many queries each.

    ValueError where shapes say something else."""
    counts: list[int] = []
    for axis, modules in enumerate(chain.modules):
        for module in modules:
            rows = checkpoint.tensors[f"{module}.weight"].shape[axis]
            if rows % head_dim:
                what = "columns" if axis else "rows"
                must = f"must have {what} that are a multiple of head_dim, {head_dim}, not {rows}"
                raise ValueError(f"{at(checkpoint, f'{module}.weight')} {must}")
            counts.append(rows // head_dim)
    queries, keys, values, output = counts
    if queries % keys or values != keys or output != queries:
        wanted = "as many heads of values as of keys, a multiple of those of queries, and as many at the output"
        have = f"{queries} of queries, {keys} of keys, {values} of values, {output} at the output"
        raise ValueError(
            f"{at(checkpoint, f'{chain.modules[0][0]}.weight')} must be in attention with {wanted}, not {have}"
        )
    return Heads(queries, keys)


def fewer_heads(
    checkpoint: Checkpoint, removal: UnitRemoval, chain: Chain, data: Checkpoint | None
) -> Iterator[tuple[str, Array, str]]:
    """Remove heads from an attention: its smaller tensors, with what was done to each.

    A unit is a head of keys and values with all heads of queries that it serves."""
    (first, keys, values), (output,) = chain.modules
    layers = {module: layer(checkpoint, module) for module in (first, keys, values, output)}
    heads = heads_of(checkpoint, chain, removal.head_dim or 1)
    _refuse_what_has_heads(checkpoint, chain, heads, removal.head_dim or 1)
    matrices = [layers[module][0].reshape(heads.groups, -1) for module in (first, keys, values)]
    scores = scores_of(first, matrices, removal.score, data)
    keep = kept(scores, removal, at(checkpoint, f"{first}.weight"))
    gone = np.count_nonzero(~keep)
    for module in (first, keys, values):
        weight, bias = layers[module]
        count = heads.queries if module == first else heads.groups
        said = f"{gone * count // heads.groups} of {count} heads removed"
        yield f"{module}.weight", _without(weight, keep, 0), said
        if bias is not None:
            yield f"{module}.bias", _without(bias, keep, 0), said
    weight = _without(layers[output][0], keep, 1)
    yield f"{output}.weight", weight, f"{layers[output][0].shape[1] - weight.shape[1]} inputs with them"


def _refuse_what_has_heads(checkpoint: Checkpoint, chain: Chain, heads: Heads, head_dim: int) -> None:
    """Raise for a tensor beside queries and keys that has a value for each head, or for each of their rows: sinks,
    biases of positions, a norm over all heads. An axis as long as a head is taken for one of its values."""
    named = {name for modules in chain.modules for name in modules} | set(chain.apart)
    counts, rows = {*heads} - {1, head_dim}, {count * head_dim for count in heads}
    queries, keys = (module.split(".") for module in chain.modules[0][:2])
    inside = [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(queries, keys, strict=False))]
    for name, info in checkpoint.tensors.items():
        module = name.rpartition(".")[0]
        if module in named or name.split(".")[: len(inside)] != inside:
            continue
        if counts & {*info.shape} or (len(info.shape) == 1 and info.shape[0] in rows):
            wanted = f"must not have the size of {heads.queries} heads, {heads.groups} of keys, or of their rows"
            rest = f"which it would keep: name {quote(module)} in apart if it has none of theirs"
            raise ValueError(f"{at(checkpoint, name)} {wanted}, {rest}, not shape {info.shape}")


def _without(a: Array, keep: Array, axis: int) -> Array:
    """Return `a` with only the groups along an axis that are to be kept."""
    return (
        a[np.repeat(keep, a.shape[axis] // keep.size)] if axis == 0 else a[:, np.repeat(keep, a.shape[1] // keep.size)]
    )


def config_of_heads(
    config: Mapping[str, Any], head_dim: int, before: Sequence[Heads], after: Sequence[Heads]
) -> dict[str, int]:
    """Return the numbers of config.json that change where every block lost as many heads.

    A reader that knows no head_dim would divide hidden_size by the heads: a config that speaks of neither head_dim
    nor heads of keys stays."""
    if len({*before}) != 1 or len({*after}) != 1 or not {"head_dim", "num_key_value_heads"} & set(config):
        return {}
    (queries, groups), left = before[0], after[0]
    if config.get("num_attention_heads") != queries or config.get("num_key_value_heads", queries) != groups:
        return {}
    found = {"num_attention_heads": left.queries, "head_dim": head_dim}
    if config.get("num_key_value_heads") is not None:
        found["num_key_value_heads"] = left.groups
    return {key: value for key, value in found.items() if config.get(key) != value}
