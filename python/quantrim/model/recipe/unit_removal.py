"""The request that units leave chains of linear layers before anything else happens to these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ... import checks
from ...files.disk.descriptors import named_path
from ...files.disk.errors import quote

SCORES = ("l1", "l2", "given")
ACTIVATIONS = ("relu", "gelu", "silu", "tanh")

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
    is any one word of a name, the same in all: a chain for each. round(sparsity * n) units of each layer but the
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
            checks.choice("activation", self.activation, ACTIVATIONS)
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
        """List the chains of a checkpoint with these tensors: one for each module that the first name matches."""
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
        """Read the request from a table of a recipe; `where` is for errors."""
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
        """Return the table that `from_dict` reads; nothing that is as by default."""
        table = {f.name: getattr(self, f.name) for f in fields(self)}
        usual = {f.name: f.default for f in fields(self)}
        return {key: value for key, value in table.items() if value != usual[key]}


def _are_modules(layer: object) -> bool:
    """Tell whether a value is a name, or a list of names."""
    if isinstance(layer, (list, tuple)):
        return bool(layer) and all(isinstance(name, str) for name in layer)
    return isinstance(layer, str)


def _filled(name: str, words: Sequence[str]) -> str:
    """Fill the * of a name with these words."""
    texts = name.split("*")
    return "".join(text + word for text, word in zip(texts, [*words, ""], strict=True))
