"""What to do with which tensor: a table of defaults and ordered rules, the first that matches deciding."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict

from .. import checks
from ..files.errors import quote
from ..quantization import ROUNDINGS, SCALE_DTYPES, SCALE_RULES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_GROUP = 128
# Below this a weight is no part of a model's size (16 KiB in float32), and each compressed tensor costs two
# more names in the header.
MIN_ELEMENTS = 4096
TOML_LIMIT = 1 << 20  # bytes of a recipe
PATTERN_LIMIT = 1000  # characters of a glob
MAX_M = 32  # of n:m


@dataclass(frozen=True)
class Settings:
    """What happens to one tensor. `keep` copies it untouched; everything else is as in `quantize` and
    `prune`.

    bits: None leaves weights in their dtype, to be pruned and no more; then all below but prune and prune_axis mean
    nothing. group_size: an integer, "channel", or None for the usual: "channel" at 8 bits, 128 below. prune: a
    fraction of 0..1, "n:m", or None. prune_axis: 1 compares the weights of each row among themselves, None
    those of the whole tensor.
    """

    keep: bool = False
    bits: int | None = 4
    group_size: int | str | None = None
    symmetric: bool = True
    scale: str = "absmax"
    scale_dtype: str = "float16"
    rounding: str = "even"
    seed: int = 0
    prune: float | str | None = None
    prune_axis: int | None = None

    def __post_init__(self) -> None:
        for name in KEYS:
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, _checked(name, value))
        if self.prune_axis is not None and isinstance(self.prune, str):
            raise ValueError(f"prune_axis must not be given with prune={self.prune!r}, which runs along rows")

    @property
    def group(self) -> int | str:
        """group_size, the usual one where none is given."""
        usual = "channel" if self.bits == 8 else DEFAULT_GROUP
        return usual if self.group_size is None else self.group_size

    @property
    def pattern(self) -> tuple[int, int] | None:
        """(n, m) where prune is "n:m"."""
        return _n_of_m(self.prune) if isinstance(self.prune, str) else None

    @property
    def sparsity(self) -> float:
        """The fraction to prune; 0 without one."""
        return self.prune if isinstance(self.prune, float) else 0.0


class Options(TypedDict, total=False):
    """What `compress` and `plan` can be asked for, beside a whole recipe. What is not given, or None, is as by default;
    only bits=None has a meaning of its own."""

    bits: int | None
    group_size: int | str | None
    symmetric: bool | None
    scale: str | None
    scale_dtype: str | None
    rounding: str | None
    seed: int | None
    prune: float | str | None
    prune_axis: int | None
    include: str | Iterable[str] | None
    exclude: str | Iterable[str] | None
    min_elements: int | None


KEYS = tuple(f.name for f in fields(Settings))
_OPTIONAL = ("bits", "group_size", "prune", "prune_axis")
_OF_CODES = ("group_size", "symmetric", "scale", "scale_dtype", "rounding", "seed")
_TOP_KEYS = (*KEYS, "min_elements", "rule")


@dataclass(frozen=True)
class Rule:
    """Settings for the tensors whose names match a glob (`*`, `?`, `[...]`; upper and lower case differ)."""

    match: str
    settings: Settings

    def __post_init__(self) -> None:
        if not isinstance(self.match, str):
            raise TypeError(f"match must be a str, a glob of tensor names, not {self.match!r}")
        if not 0 < len(self.match) <= PATTERN_LIMIT:
            raise ValueError(f"match must be 1..{PATTERN_LIMIT} characters, not {len(self.match)}")


@dataclass(frozen=True)
class Recipe:
    """Rules in order, `defaults` for the tensors that none matches.

    min_elements: matrices with fewer weights are copied, whatever the rules say.
    """

    defaults: Settings = field(default_factory=Settings)
    rules: tuple[Rule, ...] = ()
    min_elements: int = MIN_ELEMENTS

    def __post_init__(self) -> None:
        checks.integer("min_elements", self.min_elements, 0, 2**62)

    def assign(self, names: Iterable[str]) -> dict[str, Settings]:
        """The settings of each tensor. ValueError for a rule that no tensor comes to."""
        patterns = [re.compile(fnmatch.translate(rule.match)) for rule in self.rules]
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
            said = f"rule {number + 1}, match {quote(rule.match)}, matched"
            if not matched[number]:
                raise ValueError(f"{said} 0 tensors")
            if not first[number]:
                tensors = "1 tensor" if matched[number] == 1 else f"{matched[number]} tensors"
                raise ValueError(f"{said} {tensors}, but rules before it match all of them")
        return assigned

    # Text

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Recipe:
        """A recipe from a table with the keys of Settings, `min_elements`, and `rule`: a list of tables, each
        with `match` and settings that differ from those above. ValueError or TypeError for every other key or
        value."""
        _known("recipe", table, _TOP_KEYS)
        tables = table.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
            raise TypeError(f"rule must be a list of tables ([[rule]]), not {quote(tables)}")
        defaults = Settings(**{key: _given(key, table[key]) for key in KEYS if key in table})
        rules = tuple(_rule(f"rule {number + 1}", each, defaults) for number, each in enumerate(tables))
        return cls(defaults, rules, table.get("min_elements", MIN_ELEMENTS))

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
        """A recipe from a TOML file; errors name it."""
        with Path(path).open("rb") as file:
            raw = file.read(TOML_LIMIT + 1)
        if len(raw) > TOML_LIMIT:
            raise ValueError(f"recipe {quote(path)} must be at most {TOML_LIMIT} bytes")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"recipe {quote(path)} must be UTF-8: {error.reason} at byte {error.start}") from None
        try:
            return cls.from_toml(text)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{quote(path)}: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """The table that `from_dict` reads; nothing that is as by default."""
        table = _different(self.defaults, Settings())
        if self.min_elements != MIN_ELEMENTS:
            table["min_elements"] = self.min_elements
        if self.rules:
            table["rule"] = [{"match": r.match, **_different(r.settings, self.defaults)} for r in self.rules]
        return table

    def to_toml(self) -> str:
        """The recipe as TOML that `from_toml` reads back to an equal one."""
        table = self.as_dict()
        tables = [table, *table.pop("rule", [])]
        texts = ["".join(f"{key} = {_toml(value)}\n" for key, value in each.items()) for each in tables]
        return "\n[[rule]]\n".join(texts).lstrip("\n")


def recipe_from_options(
    recipe: object = None,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    min_elements: int | None = None,
    **options: Any,
) -> Recipe:
    """The recipe that `compress` and `plan` were asked for: a recipe whole (Recipe, table, or path), or
    options.

    include, exclude: globs of tensor names; with include, only those are compressed; what exclude names is
        not.
    """
    given = {key: value for key, value in options.items() if value is not None or key == "bits"}
    _known("options", given, KEYS)
    if recipe is not None:
        others = {"include": include, "exclude": exclude, "min_elements": min_elements}
        extra = [*given, *(name for name, value in others.items() if value is not None)]
        if extra:
            raise ValueError(f"give either a recipe or options, not recipe and {', '.join(extra)}")
        return _as_recipe(recipe)
    settings = Settings(**given)
    without_meaning = [key for key in _OF_CODES if key in given and settings.bits is None]
    if without_meaning:
        raise ValueError(f"{', '.join(without_meaning)} must not be given with bits=None, which writes no codes")
    kept, chosen = _globs("exclude", exclude), _globs("include", include)
    rules = [Rule(glob, replace(settings, keep=True)) for glob in kept] + [Rule(glob, settings) for glob in chosen]
    defaults = replace(settings, keep=True) if include is not None else settings
    return Recipe(defaults, tuple(rules), MIN_ELEMENTS if min_elements is None else min_elements)


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
        changed = {key: _given(key, table[key]) for key in KEYS if key in table}
        return Rule(table["match"], replace(defaults, **changed))
    except (ValueError, TypeError) as error:
        raise type(error)(f"{where}: {error}") from None


def _known(what: str, table: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for key in table:
        if key not in allowed:
            raise ValueError(f"{what} must have keys among {', '.join(allowed)}, not {quote(key)}")


def _given(key: str, value: Any) -> Any:
    """A value of a table, where None is written "none" (TOML has no null)."""
    return None if key in _OPTIONAL and value == "none" else value


def _checked(name: str, value: Any) -> Any:
    if name in ("keep", "symmetric"):
        return checks.flag(name, value)
    if name == "bits":
        return checks.integer(name, value, 2, 8)
    if name == "group_size":
        if isinstance(value, str) and value != "channel":
            raise ValueError(f'group_size must be "channel" or an integer of 1..{2**31 - 1}, not {value!r}')
        return value if value == "channel" else checks.integer(name, value, 1, 2**31 - 1)
    if name == "seed":
        return checks.integer(name, value, 0, 2**64 - 1)
    if name == "prune":
        return ":".join(map(str, _n_of_m(value))) if isinstance(value, str) else checks.number(name, value, 0.0, 1.0)
    if name == "prune_axis":
        return checks.integer(name, value, 1, 1)
    return checks.choice(name, value, {"scale": SCALE_RULES, "scale_dtype": SCALE_DTYPES, "rounding": ROUNDINGS}[name])


def _n_of_m(value: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,2}):([0-9]{1,2})", value)
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= n < m <= MAX_M:
        raise ValueError(f'prune must be a fraction of 0..1 or "n:m" with 1 <= n < m <= {MAX_M}, not {quote(value)}')
    return n, m


def _different(settings: Settings, base: Settings) -> dict[str, Any]:
    values, usual = asdict(settings), asdict(base)
    return {key: "none" if values[key] is None else values[key] for key in KEYS if values[key] != usual[key]}


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
