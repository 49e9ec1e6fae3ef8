"""What the reader of a model makes of each of its matrices: a linear layer, an embedding, a router, ..."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

WEIGHT = ".weight"
# Kinds of linear modules: exactly a Linear, or a class derived from it; touched: transformers asks for its weight when
# it has opened a model, so that a tensor of that name must be there.
PLAIN, TOUCHED = ("linear", "linear_touched"), ("linear_touched", "linear_subclass_touched")
LINEAR = ("linear", "linear_subclass", *TOUCHED, "expert")  # all that compressed-tensors replaces
EMBEDDING = ("embedding", "embedding_subclass")
UNKNOWN = "unknown"
_ANY_FAMILY = "*"
_RENAMED = "renamed"  # key of the table: ends of names in the file = in the reader
_TIES, _FAILS = ("ties",), ("fails",)  # keys of a row that are no ends
_NESTING_LIMIT = 8  # of configs within configs
_Ends = dict[tuple[str, ...], str]


class ReaderModules:
    """The modules of one model, known by its config.json from a table of families that transformers itself was asked
    for (`tests/reader_table.py`). config: None where there is none.

    families: the model types in the config that the table has; where there are none, a name means what it means in all
    families.
    """

    def __init__(self, config: Mapping[str, Any] | None) -> None:
        self.config = config or {}
        self.model_types = tuple(dict.fromkeys(_model_types(self.config)))
        self.families = tuple(name for name in self.model_types if name in _table())
        self._rows = [_table()[name] for name in self.families or (_ANY_FAMILY,)]
        self._renamed = [_renamed()[name] for name in self.families]

    def kind(self, name: str) -> str:
        """The kind of the module whose `.weight` a tensor of two dimensions is:

        one of LINEAR ("expert": which the reader joins with others); "embedding", "embedding_subclass"; "head", whose
        output are logits, or an embedding that shares its weight; "tied", which shares another; "conv1d", a Linear
        stored as (in, out); "other", say a router; "unknown" for a name that the table does not have.
        """
        path = _path(name.removesuffix(WEIGHT))
        found: dict[int, set[str]] = {}
        for row in self._rows:
            end = next((path[first:] for first in range(len(path)) if path[first:] in row), None)
            if end is not None:
                found.setdefault(len(end), set()).add(row[end])
        if not found:
            return UNKNOWN
        kinds = found[max(found)]
        if len(kinds) == 1:
            return next(iter(kinds))
        return next(iter(sorted(kinds - set(LINEAR))), "linear_subclass_touched")  # of which readers open the least

    @property
    def fails(self) -> bool:
        """Whether transformers opens no checkpoint of this family in the forms of compressed-tensors."""
        return any(_FAILS in row for row in self._rows)

    @property
    def ties_embeddings(self) -> bool:
        """Whether the head may share the weight of an embedding, as far as the config tells."""
        classes = self.config.get("architectures")
        tied = {name for row in self._rows for name in row.get(_TIES, "").split()}
        if not isinstance(classes, list) or not classes or not self.families:
            return True
        return bool(tied.intersection(map(str, classes))) and self.config.get("tie_word_embeddings") is not False

    def other_names(self, modules: Iterable[str]) -> dict[str, str]:
        """What the reader calls modules that have another name in the file, from the list of layers on."""
        known = {old: new for row in self._renamed for old, new in row.items()}
        found = {}
        for module in modules if known else ():
            parts, path = module.split("."), _path(module)
            end = next((path[first:] for first in range(len(path)) if path[first:] in known), None)
            if end is not None:
                numbers = iter([part for part, sign in zip(parts, path, strict=True) if sign == "*"][-end.count("*") :])
                found[module] = ".".join(next(numbers, "*") if part == "*" else part for part in known[end])
        return found

    def absent(self, names: Iterable[str]) -> Iterator[str]:
        """The ends of names of linear modules that the reader may have and that none of these tensors belongs to: tied
        heads, and those of other tasks."""
        modules = [name.removesuffix(WEIGHT) for name in names if name.endswith(WEIGHT)]
        held = map(_path, [*modules, *self.other_names(modules).values()])
        ends = {path[first:] for path in held for first in range(len(path))}
        for row in self._rows if self.families else ():
            for end, kind in row.items():
                if kind in (*LINEAR, "head", "tied") and kind != "expert" and end not in ends:
                    yield ".".join(end)


def _path(module: str) -> tuple[str, ...]:
    return tuple("*" if part.isascii() and part.isdigit() else part for part in module.split("."))


def _model_types(config: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """The model type of a config and of the configs in it."""
    if isinstance(config.get("model_type"), str):
        yield config["model_type"]
    for value in config.values():
        if isinstance(value, dict) and depth < _NESTING_LIMIT:
            yield from _model_types(value, depth + 1)


@cache
def _table() -> dict[str, _Ends]:
    """Family -> ends of module names -> kind; ("ties",) -> classes whose head shares an embedding; ("fails",) -> what
    format transformers does not open."""
    stored = json.loads(Path(__file__).with_suffix(".json").read_text())
    rows: dict[str, _Ends] = {}
    for family, row in stored.items():
        if isinstance(row, dict):
            kinds = {kind: ends for kind, ends in row.items() if kind not in ("ties", "fails", _RENAMED)}
            rows[family] = {tuple(end.split(".")): kind for kind, ends in kinds.items() for end in ends.split()}
            rows[family] |= {(key,): row[key] for key in ("ties", "fails") if key in row}
    return rows | {family: rows[row] for family, row in stored.items() if isinstance(row, str) and row in rows}


@cache
def _renamed() -> dict[str, dict[tuple[str, ...], tuple[str, ...]]]:
    """Family -> ends of names in the file -> those in the reader, where they differ."""
    stored = json.loads(Path(__file__).with_suffix(".json").read_text())
    rows = {}
    for family in _table():
        row = stored[stored[family]] if isinstance(stored[family], str) else stored[family]
        pairs = [pair.split("=") for pair in row.get(_RENAMED, "").split()]
        rows[family] = {tuple(old.split(".")): tuple(new.split(".")) for old, new in pairs}
    return rows
