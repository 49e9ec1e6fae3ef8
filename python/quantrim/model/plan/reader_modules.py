"""The modules that a model's reader makes of its matrices: a linear layer, an embedding, a router, ..."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ...layouts.base import WEIGHT

# Kinds of linear modules: exactly a Linear, or a class derived from it; touched: transformers asks for its weight when
# it has opened a model, so that a tensor of that name must be there.
PLAIN, TOUCHED = ("linear", "linear_touched"), ("linear_touched", "linear_subclass_touched")
LINEAR = ("linear", "linear_subclass", *TOUCHED, "expert")  # all that compressed-tensors replaces
EMBEDDING = ("embedding", "embedding_subclass")
UNKNOWN = "unknown"
_ANY_FAMILY = "*"
_FACTS = ("ties", "fails", "renamed")  # keys of a row that are no kinds of modules
_NESTING_LIMIT = 8  # of configs within configs
_End = tuple[str, ...]  # of a module's name, by its words; "*" for a number


class _Family(NamedTuple):
    """kinds: ends of names -> kind of module. tied_classes: whose head shares an embedding. fails: whether transformers
    opens none of its checkpoints in the layouts of compressed-tensors. renamed: ends of names in the file -> in the
    reader, where they differ."""

    kinds: dict[_End, str]
    tied_classes: frozenset[str]
    fails: bool
    renamed: dict[_End, _End]


class ReaderModules:
    """The modules of one model, known by its config.json from a table of families that transformers itself was asked
    for (`tests/reader_table.py`). config: None where there is none.

    families: the model types in the config that the table has; where there are none, a name means what it means in all
    families.
    """

    def __init__(self, config: Mapping[str, Any] | None) -> None:
        self.config = config or {}
        self.model_types = tuple(dict.fromkeys(_model_types(self.config)))
        self.families = tuple(name for name in self.model_types if _family(name) is not None)
        self._rows = [row for name in self.families or (_ANY_FAMILY,) if (row := _family(name)) is not None]
        self._kinds: dict[_End, str] = {}  # that were asked for

    def kind(self, name: str) -> str:
        """Return the kind of the module whose `.weight` a tensor of two dimensions is.

        One of LINEAR ("expert": which the reader joins with others); "embedding", "embedding_subclass"; "head", whose
        output are logits, or an embedding that shares its weight; "tied", which shares another; "conv1d", a Linear
        stored as (in, out); "other", say a router; "unknown" for a name that the table does not have.
        """
        path = _path(name.removesuffix(WEIGHT))
        if path not in self._kinds:
            self._kinds[path] = self._kind(path)
        return self._kinds[path]

    def _kind(self, path: _End) -> str:
        found: dict[int, set[str]] = {}
        for row in self._rows:
            end = _longest_end(path, row.kinds)
            if end is not None:
                found.setdefault(len(end), set()).add(row.kinds[end])
        if not found:
            return UNKNOWN
        kinds = found[max(found)]
        if len(kinds) == 1:
            return next(iter(kinds))
        return next(iter(sorted(kinds - set(LINEAR))), "linear_subclass_touched")  # of which readers open the least

    @property
    def fails(self) -> bool:
        """Whether transformers opens no checkpoint of this family in the layouts of compressed-tensors."""
        return any(row.fails for row in self._rows)

    @property
    def ties_embeddings(self) -> bool:
        """Whether the head may share the weight of an embedding, as far as the config tells."""
        classes = self.config.get("architectures")
        if not isinstance(classes, list) or not classes or not self.families:
            return True
        tied = any(row.tied_classes.intersection(map(str, classes)) for row in self._rows)
        return tied and self.config.get("tie_word_embeddings") is not False

    def other_names(self, modules: Iterable[str]) -> dict[str, str]:
        """Map modules, from the list of layers on, to what the reader calls them where that is another name."""
        known = {old: new for row in self._rows for old, new in row.renamed.items()}
        found = {}
        for module in modules if known else ():
            words, path = module.split("."), _path(module)
            end = _longest_end(path, known)
            if end is not None:
                numbers = iter([word for word, sign in zip(words, path, strict=True) if sign == "*"][-end.count("*") :])
                found[module] = ".".join(next(numbers, "*") if word == "*" else word for word in known[end])
        return found

    def absent(self, names: Iterable[str]) -> Iterator[str]:
        """Return ends of names of linear modules that the reader may have and that none of these tensors belongs to.

        These are tied heads, and those of other tasks."""
        if not self.families:
            return
        modules = [name.removesuffix(WEIGHT) for name in names if name.endswith(WEIGHT)]
        held = set(map(_path, [*modules, *self.other_names(modules).values()]))
        ends = {path[first:] for path in held for first in range(len(path))}
        for row in self._rows:
            for end, kind in row.kinds.items():
                if kind in (*LINEAR, "head", "tied") and kind != "expert" and end not in ends:
                    yield ".".join(end)


def _longest_end(path: _End, ends: Collection[_End]) -> _End | None:
    return next((path[first:] for first in range(len(path)) if path[first:] in ends), None)


def _path(module: str) -> tuple[str, ...]:
    return tuple(["*" if word.isdigit() and word.isascii() else word for word in module.split(".")])


def _model_types(config: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Return the model type of a config and of the configs in it."""
    if isinstance(config.get("model_type"), str):
        yield config["model_type"]
    for value in config.values():
        if isinstance(value, dict) and depth < _NESTING_LIMIT:
            yield from _model_types(value, depth + 1)


@cache
def _table() -> dict[str, Any]:
    """Read reader_modules.json: a row for each family, or the name of one that it is like."""
    found: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text())
    return found


@cache
def _family(name: str) -> _Family | None:
    """Return a family of the table; None where there is none of that name."""
    row = _table().get(name)
    row = _table().get(row) if isinstance(row, str) else row
    if not isinstance(row, dict):
        return None
    facts = {key: row.get(key, "").split() for key in _FACTS}
    kinds = {kind: ends for kind, ends in row.items() if kind not in _FACTS}
    return _Family(
        kinds={_path(end): kind for kind, ends in kinds.items() for end in ends.split()},
        tied_classes=frozenset(facts["ties"]),
        fails=bool(facts["fails"]),
        renamed={_path(old): _path(new) for old, new in (pair.split("=") for pair in facts["renamed"])},
    )
