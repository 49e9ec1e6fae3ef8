"""Recipes: a table of defaults and ordered rules for tensors, the first that matches deciding."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ...files.disk.errors import quote
from ...option_values import NONE
from ...options import ARGUMENTS, MIN_ELEMENTS, OF_RULES, OF_TOP, given
from .resolve import Resolved, differences, prunes_alone, refuse_idle, resolve, settings_of
from .settings import Scored, ScoredBy, Settings
from .unit_removal import UnitRemoval

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOML_LIMIT = 1 << 20  # bytes of a recipe
PATTERN_LIMIT = 1000  # characters of a glob
_KEYS_OF_TOP = (*OF_RULES, *OF_TOP, "remove_units", "rule")


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
    simulate: store the decoded weights, in the dtype of the source, in place of the codes. strict: an error
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
        for name, option in OF_TOP.items():
            value = getattr(self, name)
            if value is not None or not option.optional:
                object.__setattr__(self, name, option.check(name, value))

    @property
    def data_files(self) -> list[Path]:
        """The checkpoints that scores are computed from."""
        pruned = [s.prune for s in (self.defaults, *(rule.settings for rule in self.rules))]
        asked = [p.score.path for p in pruned if isinstance(p, Scored) and isinstance(p.score, ScoredBy)]
        asked += [removal.data for removal in self.remove_units if removal.data is not None]
        return [(self.folder or Path()) / path for path in dict.fromkeys(asked)]

    def assign(self, names: Iterable[str]) -> dict[str, Settings]:
        """Assign settings to each tensor. ValueError for a rule that no tensor comes to, but to keep one."""
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
        """List the globs of `exclude` that match none of these names."""
        every = list(names)
        globs = [rule for rule in self.rules if rule.option == "exclude"]
        return [rule.match for rule in globs if not any(map(rule.pattern.match, every))]

    # Text

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Recipe:
        """Read a recipe from a table: keys of Settings, `min_elements`, `max_shard_size`, `rule`, `remove_units`.

        `rule`: a list of tables, each with `match` and settings that differ from those above. `remove_units`: a list of
        tables, as UnitRemoval has them. ValueError or TypeError for every other key or value."""
        _known("recipe", table, _KEYS_OF_TOP)
        top = resolve(_of_rules(table))
        rules = [_rule(f"rule {k + 1}", each, top.values) for k, each in enumerate(_tables(table, "rule"))]
        inherited = {name for _, found in rules for name in found.values if name not in found.idle}
        refuse_idle(top, [name for name in OF_RULES if name in table and name not in inherited])
        removed = enumerate(_tables(table, "remove_units"))
        removals = tuple(UnitRemoval.from_dict(f"remove_units {k + 1}", each) for k, each in removed)
        whole = {key: _given(key, table[key]) for key in OF_TOP if key in table}
        return cls(top.settings, tuple(rule for rule, _ in rules), remove_units=removals, **whole)

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """Read a recipe from TOML text, as `to_toml` writes it."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"recipe must be TOML: {error}") from None
        except RecursionError:
            raise ValueError("recipe must be TOML that is not nested deeply") from None
        return cls.from_dict(table)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from a TOML file; errors name it, and paths in it are relative to its folder."""
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
        """Return the table that `from_dict` reads; nothing that is as by default."""
        table = differences(self.defaults, Settings())
        if self.defaults.bits == 4 and prunes_alone(table):
            table["bits"] = 4  # which pruning alone would not mean
        whole = {f.name: getattr(self, f.name) for f in fields(self) if f.name in OF_TOP}
        table |= {key: value for key, value in whole.items() if value != OF_TOP[key].default}
        if self.remove_units:
            table["remove_units"] = [removal.as_dict() for removal in self.remove_units]
        if self.rules:
            table["rule"] = [{"match": r.match, **differences(r.settings, self.defaults)} for r in self.rules]
        return table

    def to_toml(self) -> str:
        """Write the recipe as TOML that `from_toml` reads back to an equal one."""
        table = self.as_dict()
        tables = [(kind, each) for kind in ("remove_units", "rule") for each in table.pop(kind, [])]
        texts = [f"\n[[{kind}]]\n{_lines(each)}" for kind, each in tables]
        return "".join([_lines(table), *texts]).lstrip("\n")


def recipe_from_options(recipe: object = None, **options: Any) -> Recipe:
    """Return the recipe that `compress` and `plan` were asked for: a recipe whole (Recipe, table, or path), or options,
    which are None where they are as by default."""
    _known("options", options, tuple(ARGUMENTS))
    asked = given(options)
    if recipe is not None:
        if asked:
            raise ValueError(f"give either a recipe or options, not recipe and {', '.join(asked)}")
        return _as_recipe(recipe)
    settings = settings_of(**{name: value for name, value in asked.items() if ARGUMENTS[name].key == "rule"})
    whole = {name: value for name, value in asked.items() if ARGUMENTS[name].key == "top"}
    globs = {name: ARGUMENTS[name].check(name, asked.get(name, ())) for name in ("drop", "exclude", "include")}
    rules = {
        "drop": replace(settings, action="drop"),
        "exclude": replace(settings, action="keep"),
        "include": replace(settings, reader="any"),  # rounded whether readers open it or not
    }
    return Recipe(
        replace(settings, action="keep") if "include" in asked else settings,
        tuple(Rule(glob, rules[name], name) for name in globs for glob in globs[name]),
        **whole,
    )


def _as_recipe(recipe: object) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return Recipe.from_dict(recipe)
    if isinstance(recipe, (str, os.PathLike)):
        return Recipe.from_file(recipe)
    raise TypeError(f"recipe must be a Recipe, a table, or the path of a TOML file, not {type(recipe).__name__}")


def _rule(where: str, table: Mapping[str, Any], inherited: Mapping[str, Any]) -> tuple[Rule, Resolved]:
    """Return a rule, and how it came of what it says and inherits."""
    _known(where, table, ("match", *OF_RULES))
    if "match" not in table:
        raise ValueError(f"{where} must have a match, a glob of tensor names")
    try:
        own = _of_rules(table)
        found = resolve(own, inherited)
        refuse_idle(found, own)
        return Rule(table["match"], found.settings), found
    except (ValueError, TypeError) as error:
        raise type(error)(f"{where}: {error}") from None


def _tables(table: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    tables = table.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise TypeError(f"{key} must be a list of tables ([[{key}]]), not {quote(tables)}")
    return tables


def _of_rules(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _given(key, table[key]) for key in OF_RULES if key in table}


def _known(what: str, table: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for key in table:
        if key not in allowed:
            raise ValueError(f"{what} must have keys among {', '.join(allowed)}, not {quote(key)}")


def _given(key: str, value: Any) -> Any:
    """Return a value of a table, where None is written "none" (TOML has no null)."""
    return None if value == NONE and (OF_RULES.get(key) or OF_TOP[key]).optional else value


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
