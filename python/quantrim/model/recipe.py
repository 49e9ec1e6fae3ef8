"""What to do with which tensor: a table of defaults and ordered rules, the first that matches deciding."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import checks
from ..files.errors import quote
from ..words import NARROW_FLOATS
from .methods import check_together, replaced
from .settings import KEYS, OF_CODES, OPTIONAL, Settings, meaningless
from .sizes import parse_size
from .unit_removal import UnitRemoval

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Below this a weight is no part of a model's size (16 KiB in float32), and each compressed tensor costs two
# more names in the header.
MIN_ELEMENTS = 4096
TOML_LIMIT = 1 << 20  # bytes of a recipe
PATTERN_LIMIT = 1000  # characters of a glob
TOP_OPTIONAL = ("max_shard_size", "dtype")  # of the top alone, which may be None
_TOP = ("min_elements", *TOP_OPTIONAL, "simulate", "strict")
_TOP_KEYS = (*KEYS, *_TOP, "remove_units", "rule")
_ROUNDING = ("bits", "codebook", "clusters", "recognize", *(key for key in OF_CODES if key != "seed"))
_PRUNING = ("prune", "threshold", "shrink_l1", "shrink_l2")


@dataclass(frozen=True)
class Rule:
    """Settings for the tensors whose names match a glob (`*`, `?`, `[...]`; upper and lower case differ).

    option: the option of `compress` that it was made from, '' for a rule that somebody wrote.
    """

    match: str
    settings: Settings
    option: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.match, str):
            raise TypeError(f"match must be a str, a glob of tensor names, not {self.match!r}")
        if not 0 < len(self.match) <= PATTERN_LIMIT:
            raise ValueError(f"match must be 1..{PATTERN_LIMIT} characters, not {len(self.match)}")

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(fnmatch.translate(self.match))


@dataclass(frozen=True)
class Recipe:
    """Rules in order, `defaults` for the tensors that none matches.

    min_elements: tensors with fewer weights are copied, whatever the rules say. max_shard_size: bytes that no file of a
    model folder may exceed; 2GB, say, in text; None for the files of the source. remove_units: what leaves chains of
    layers before anything else. dtype: "float16" or "bfloat16", what float32 and float64 tensors without codes become.
    simulate: store the floats that codes stand for, in the dtype of the source, in place of the codes. strict: an error
    where a tensor cannot be pruned in the pattern that is asked for, which is kept otherwise. folder: what the paths of
    data are relative to, that of a recipe's file; None for where the process works.
    """

    defaults: Settings = field(default_factory=Settings)
    rules: tuple[Rule, ...] = ()
    min_elements: int = MIN_ELEMENTS
    max_shard_size: int | None = None
    remove_units: tuple[UnitRemoval, ...] = ()
    dtype: str | None = None
    simulate: bool = False
    strict: bool = False
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        checks.integer("min_elements", self.min_elements, 0, 2**62)
        if self.max_shard_size is not None:
            object.__setattr__(self, "max_shard_size", parse_size("max_shard_size", self.max_shard_size))
        if self.dtype is not None:
            checks.choice("dtype", self.dtype, NARROW_FLOATS)
        checks.flag("simulate", self.simulate)
        checks.flag("strict", self.strict)

    @property
    def data_files(self) -> list[Path]:
        """The checkpoints that scores are computed from."""
        asked = [s.prune_data for s in (self.defaults, *(rule.settings for rule in self.rules))]
        asked += [removal.data for removal in self.remove_units]
        return [(self.folder or Path()) / path for path in dict.fromkeys(asked) if path is not None]

    def assign(self, names: Iterable[str]) -> dict[str, Settings]:
        """The settings of each tensor. ValueError for a rule that no tensor comes to, but to keep one."""
        patterns = [rule.pattern for rule in self.rules]
        first, matched = [0] * len(patterns), [0] * len(patterns)
        assigned = {}
        for name in names:
            hits = [i for i, pattern in enumerate(patterns) if pattern.match(name)]
            for i in hits:
                matched[i] += 1
            if hits:
                first[hits[0]] += 1
            assigned[name] = self.rules[hits[0]].settings if hits else self.defaults
        for number, rule in enumerate(self.rules):
            if rule.option == "exclude":
                continue  # what is not there is not compressed; see `without_effect`
            said = f"rule {number + 1}, match {quote(rule.match)}, matched"
            if rule.option:
                said = f"{rule.option}={quote(rule.match)} matched"
            if not matched[number]:
                raise ValueError(f"{said} 0 tensors")
            if not first[number]:
                tensors = "1 tensor" if matched[number] == 1 else f"{matched[number]} tensors"
                before = "drop and exclude" if rule.option else "rules before it"
                raise ValueError(f"{said} {tensors}, but {before} match all of them")
        return assigned

    def without_effect(self, names: Iterable[str]) -> list[str]:
        """The globs of `exclude` that match none of these names."""
        every = list(names)
        globs = [rule for rule in self.rules if rule.option == "exclude"]
        return [rule.match for rule in globs if not any(map(rule.pattern.match, every))]

    # Text

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Recipe:
        """A recipe from a table with the keys of Settings, `min_elements`, `max_shard_size`, `rule`: a list of tables,
        each with `match` and settings that differ from those above, and `remove_units`: a list of tables, as
        UnitRemoval has them. ValueError or TypeError for every other key or value."""
        _known("recipe", table, _TOP_KEYS)
        defaults = Settings(**_as_asked(_changed(table)))
        rules = tuple(_rule(f"rule {number + 1}", each, defaults) for number, each in enumerate(_tables(table, "rule")))
        removed = enumerate(_tables(table, "remove_units"))
        removals = tuple(UnitRemoval.from_dict(f"remove_units {number + 1}", each) for number, each in removed)
        top = {key: _given(key, table[key]) for key in _TOP if key in table}
        return cls(defaults, rules, remove_units=removals, **top)

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """A recipe from TOML text, as `to_toml` writes it."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"recipe must be TOML: {error}") from None
        except RecursionError:
            raise ValueError("recipe must be TOML that is not nested deeply") from None
        return cls.from_dict(table)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Recipe:
        """A recipe from a TOML file; errors name it, and paths in it are relative to its folder."""
        with Path(path).open("rb") as file:
            raw = file.read(TOML_LIMIT + 1)
        if len(raw) > TOML_LIMIT:
            raise ValueError(f"recipe {quote(path)} must be at most {TOML_LIMIT} bytes")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"recipe {quote(path)} must be UTF-8: {error.reason} at byte {error.start}") from None
        try:
            return replace(cls.from_toml(text), folder=Path(path).parent)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{quote(path)}: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """The table that `from_dict` reads; nothing that is as by default."""
        table = _different(self.defaults, Settings())
        if (
            self.defaults.bits == 4
            and any(key in table for key in _PRUNING)
            and not any(key in table for key in _ROUNDING)
        ):
            table["bits"] = 4  # which pruning alone would not mean
        if self.min_elements != MIN_ELEMENTS:
            table["min_elements"] = self.min_elements
        for key in ("max_shard_size", "dtype", "simulate", "strict"):
            if getattr(self, key):
                table[key] = getattr(self, key)
        if self.remove_units:
            table["remove_units"] = [removal.as_dict() for removal in self.remove_units]
        if self.rules:
            table["rule"] = [{"match": r.match, **_different(r.settings, self.defaults)} for r in self.rules]
        return table

    def to_toml(self) -> str:
        """The recipe as TOML that `from_toml` reads back to an equal one."""
        table = self.as_dict()
        parts = [(kind, each) for kind in ("remove_units", "rule") for each in table.pop(kind, [])]
        texts = [f"\n[[{kind}]]\n{_lines(each)}" for kind, each in parts]
        return "".join([_lines(table), *texts]).lstrip("\n")


def recipe_from_options(
    recipe: object = None,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    drop: str | Iterable[str] | None = None,
    min_elements: int | None = None,
    max_shard_size: int | str | None = None,
    dtype: str | None = None,
    simulate: bool | None = None,
    strict: bool | None = None,
    **options: Any,
) -> Recipe:
    """The recipe that `compress` and `plan` were asked for: a recipe whole (Recipe, table, or path), or
    options.

    include, exclude, drop: globs of tensor names; with include, only those are compressed; what exclude names is
        not, and what drop names is left out.
    """
    given = {key: value for key, value in options.items() if value is not None or key == "bits"}
    _known("options", given, tuple(key for key in KEYS if key not in ("keep", "drop")))
    if recipe is not None:
        others: dict[str, object] = {"include": include, "exclude": exclude, "drop": drop}
        others |= {"min_elements": min_elements, "max_shard_size": max_shard_size}
        others |= {"dtype": dtype, "simulate": simulate, "strict": strict}
        extra = [*given, *(name for name, value in others.items() if value is not None)]
        if extra:
            raise ValueError(f"give either a recipe or options, not recipe and {', '.join(extra)}")
        return _as_recipe(recipe)
    check_together(given)
    settings = Settings(**_as_asked(given))
    for keys, why in meaningless(settings):
        named = [key for key in keys if key in given]
        if named:
            raise ValueError(f"{', '.join(named)} must not be given {why}")
    ways: tuple[tuple[str, Any, dict[str, Any]], ...]
    ways = (("drop", drop, {"drop": True}), ("exclude", exclude, {"keep": True}), ("include", include, _INCLUDED))
    rules = [Rule(glob, replace(settings, **way), name) for name, globs, way in ways for glob in _globs(name, globs)]
    defaults = replace(settings, keep=True) if include is not None else settings
    size = None if max_shard_size is None else parse_size("max_shard_size", max_shard_size)
    least = MIN_ELEMENTS if min_elements is None else min_elements
    return Recipe(defaults, tuple(rules), least, size, dtype=dtype, simulate=bool(simulate), strict=bool(strict))


# What is asked for by name is rounded whether readers open it or not.
_INCLUDED = {"reader": "any"}


def _as_asked(given: dict[str, Any]) -> dict[str, Any]:
    """The settings with what follows where no rounding is asked for: none where pruning is, NF4 for bitsandbytes."""
    if any(key in given for key in _ROUNDING):
        return given
    if any(given.get(key) for key in _PRUNING):
        return {**given, "bits": None}
    return {**given, "codebook": "nf4"} if given.get("reader") == "bitsandbytes" else given


def _as_recipe(recipe: object) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return Recipe.from_dict(recipe)
    if isinstance(recipe, (str, os.PathLike)):
        return Recipe.from_file(recipe)
    raise TypeError(f"recipe must be a Recipe, a table, or the path of a TOML file, not {type(recipe).__name__}")


def _globs(name: str, value: str | Iterable[str] | None) -> list[str]:
    globs = [] if value is None else [value] if isinstance(value, str) else list(value)
    if not all(isinstance(glob, str) for glob in globs):
        raise TypeError(f"{name} must be a glob or a list of globs, not {quote(value)}")
    return globs


def _rule(where: str, table: Mapping[str, Any], defaults: Settings) -> Rule:
    _known(where, table, ("match", *KEYS))
    if "match" not in table:
        raise ValueError(f"{where} must have a match, a glob of tensor names")
    try:
        return Rule(table["match"], replace(defaults, **_changed(table)))
    except (ValueError, TypeError) as error:
        raise type(error)(f"{where}: {error}") from None


def _tables(table: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    tables = table.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise TypeError(f"{key} must be a list of tables ([[{key}]]), not {quote(tables)}")
    return tables


def _changed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a table names, with what follows from them."""
    changed = {key: _given(key, table[key]) for key in KEYS if key in table}
    check_together(key for key, value in changed.items() if table[key] != "none" or key == "bits")
    return replaced(changed)


def _known(what: str, table: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for key in table:
        if key not in allowed:
            raise ValueError(f"{what} must have keys among {', '.join(allowed)}, not {quote(key)}")


def _given(key: str, value: Any) -> Any:
    """A value of a table, where None is written "none" (TOML has no null)."""
    return None if key in (*OPTIONAL, *TOP_OPTIONAL) and value == "none" else value


def _different(settings: Settings, base: Settings) -> dict[str, Any]:
    values, usual = asdict(settings), asdict(base)
    said = [key for key in KEYS if values[key] != usual[key] and key not in settings.without_meaning]
    return {key: "none" if values[key] is None else values[key] for key in said}


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
