"""The layers of a chain that loses units: their tensors, what is between them, and which units stay."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from ... import importance
from ...checks import Array
from ...files import Checkpoint, FormatError, TensorInfo
from ...files.disk.errors import PATH_LIMIT, quote
from ...pruning import prune_mask
from ..recipe.unit_removal import Chain, Modules, UnitRemoval
from ..streaming.reader import not_finite

DTYPES = ("F32", "F16", "BF16")
# Last words of names of modules whose rows are those of heads, and those that are so only within attention.
_OF_HEADS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "q_lin",
    "k_lin",
    "v_lin",
    "qkv",
    "qkv_proj",
    "query_key_value",
    "Wqkv",
    "c_attn",
)
_IN_ATTENTION = ("q", "k", "v", "wq", "wk", "wv", "query", "key", "value", "query_proj", "key_proj", "value_proj")

Layer = tuple[Array, Array | None]


def layer(checkpoint: Checkpoint, module: str) -> Layer:
    """Return weight and bias of a module, which has nothing else."""
    names = [name for name in checkpoint.tensors if name.startswith(f"{module}.")]
    others = [name for name in names if name not in (f"{module}.weight", f"{module}.bias")]
    if f"{module}.weight" not in names:
        raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)} must have tensor {quote(f'{module}.weight')}")
    if others:
        raise ValueError(f"{at(checkpoint, others[0])} must not be there: layers have a weight and a bias alone")
    weight = _floats(checkpoint, f"{module}.weight", is_weight=True)
    bias = _floats(checkpoint, f"{module}.bias", is_weight=False) if f"{module}.bias" in names else None
    return weight, bias


def has_matrix(checkpoint: Checkpoint, module: str) -> bool:
    """Tell whether a module's weight has rows and columns."""
    info = checkpoint.tensors.get(f"{module}.weight")
    return info is not None and len(info.shape) > 1


def values_of_units(checkpoint: Checkpoint, module: str, units: int) -> list[str]:
    """Return the tensors of a module between two layers that have a value for each unit; single numbers stay."""
    infos = [checkpoint.tensors[name] for name in checkpoint.tensors if name.rpartition(".")[0] == module]
    for info in infos:
        if info.shape != (units,) and info.size > 1:
            wanted = f"have a value for each of {units} units before it"
            raise ValueError(f"{at(checkpoint, info.name)} must {wanted}, not shape {info.shape}")
    return [info.name for info in infos if info.shape == (units,)]


def refuse_attention(checkpoint: Checkpoint, modules: Modules) -> None:
    """Raise for queries, keys and values: attention takes their rows apart into heads of one size."""
    for name in modules:
        path, _, last = name.rpartition(".")
        if last in _OF_HEADS or (last in _IN_ATTENTION and "att" in path.lower()):
            wanted = "layers = [[queries, keys, values], output] with head_dim, the rows of a head"
            where = at(checkpoint, f"{name}.weight")
            raise ValueError(
                f"{where} must lose whole heads, which are the units of attention, not rows: give {wanted}"
            )


def refuse_what_is_not_named(checkpoint: Checkpoint, chain: Chain, layers: Iterable[Modules]) -> None:
    """Raise for a tensor that has a value for each unit and may be between two layers, by its name, but is in no
    list: its module would keep its size, and nobody would notice before the model is run."""
    named = {name for modules in chain.modules for name in modules} | set(chain.apart)
    for modules, following in itertools.pairwise(layers):
        units = checkpoint.tensors[f"{modules[0]}.weight"].shape[0]
        for name in _near(checkpoint, modules[-1], following[0]):
            module = name.rpartition(".")[0]
            if (
                checkpoint.tensors[name].shape == (units,)
                and module not in named
                and not has_matrix(checkpoint, module)
            ):
                has = f"has a value for each of {units} units of {quote(modules[0])}, and may follow it"
                raise ValueError(f"{at(checkpoint, name)} {has}: name {quote(module)} in layers, or in apart")


def _near(checkpoint: Checkpoint, first: str, second: str) -> Iterator[str]:
    """Yield tensors under the module that holds both modules; of numbered modules in it those between the two."""
    begin, end = first.split("."), second.split(".")
    depth = next(k for k, pair in enumerate(zip(begin, end, strict=False)) if len(set(pair)) > 1)
    for name in checkpoint.tensors:
        here = name.split(".")
        if here[:depth] != begin[:depth] or len(here) < depth + 2:
            continue
        places = [words[depth] for words in (begin, here, end)]
        if not all(place.isdecimal() for place in places) or sorted(places, key=int) == places:
            yield name


def kept(scores: Array, removal: UnitRemoval, where: str) -> Array:
    """Mark the units that stay. ValueError, about `where`, for none."""
    count = scores.size
    left = count - round(removal.sparsity * count)
    left = min(count, -(-left // removal.multiple_of) * removal.multiple_of)
    if not left:
        raise ValueError(f"{where} must keep a unit, not lose all {count}")
    return prune_mask(scores, (count - left) / count)


def scores_of(module: str, weights: list[Array], score: str, data: Checkpoint | None) -> Array:
    """Score each unit of the modules that share them, of which `module` is the first.

    weights: (units, ...) of each. data: where scores are given."""
    units = len(weights[0])
    if data is None:
        norm = importance.l1 if score == "l1" else importance.l2
        matrices = [weight.reshape(units, -1) for weight in weights]
        scores: Array = norm(matrices[0] if len(matrices) == 1 else np.concatenate(matrices, axis=1), axis=1)
        return scores
    name = f"{module}.weight"
    if name not in data:
        raise FormatError(f"data must have a tensor {quote(name)} of scores", path=data.path)
    info = data.tensors[name]
    if info.dtype not in DTYPES or info.shape != (units,):
        wanted = f"scores of shape {(units,)} in {', '.join(DTYPES)}"
        raise FormatError(f"must be {wanted}, not {info.dtype} of {info.shape}", path=info.path, tensor=name)
    return _finite(data, info, "scores")


def at(checkpoint: Checkpoint, name: str) -> str:
    """Name a tensor as errors do."""
    return f"{quote(checkpoint.path, PATH_LIMIT)}, tensor {quote(name)}"


def _floats(checkpoint: Checkpoint, name: str, *, is_weight: bool) -> Array:
    info = checkpoint.tensors[name]
    if info.dtype not in DTYPES or (len(info.shape) > 1) != is_weight or not info.shape or not info.size:
        wanted = f"{', '.join(DTYPES)} of {'(out, in, ...)' if is_weight else '(out,)'}"
        problem = f"must be {wanted} for units to be removed, not {info.dtype} of shape {info.shape}"
        raise FormatError(problem, path=info.path, tensor=name)
    return _finite(checkpoint, info, "weights")


def _finite(checkpoint: Checkpoint, info: TensorInfo, what: str) -> Array:
    x = checkpoint.read(info.name)
    error = not_finite(what, info, x, 0)
    if error is not None:
        raise error
    return x
