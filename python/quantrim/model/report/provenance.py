"""The provenance of a result, so that it can be made again: every setting, also those by default, and versions."""

from __future__ import annotations

import platform
import resource
import sys
from importlib import metadata
from typing import Any

from ... import backend
from ..._version import __version__
from ...option_values import NONE
from ..recipe import Recipe, Settings, table_of

SCHEMA = 3  # of what is printed and saved as JSON; grows when a key changes its meaning or goes


def stamp() -> dict[str, Any]:
    """Return the keys that every JSON object of ours begins with.

    >>> sorted(stamp())
    ['quantrim', 'schema']
    """
    return {"schema": SCHEMA, "quantrim": __version__}


def settings_table(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe with nothing left to defaults: `Recipe.from_dict` makes of it one that does the same.

    >>> table = settings_table(Recipe())
    >>> table["bits"], table["group_size"], table["max_shard_size"], table["rule"]
    (4, 32, 'none', [])
    """
    return {
        **_settings(recipe.defaults),
        "min_elements": recipe.min_elements,
        "max_shard_size": NONE if recipe.max_shard_size is None else recipe.max_shard_size,
        "dtype": recipe.dtype or NONE,
        "simulate": recipe.simulate,
        "strict": recipe.strict,
        "remove_units": [removal.as_dict() for removal in recipe.remove_units],
        "rule": [{"match": rule.match, **_settings(rule.settings)} for rule in recipe.rules],
    }


def _settings(settings: Settings) -> dict[str, Any]:
    """Return all that means something beside the rest; "none" as in a recipe."""
    values = table_of(settings)
    if settings.rounds and not settings.recognize:
        values["group_size"] = settings.group
    return values


def versions() -> dict[str, str]:
    """Return the versions of what computed: programs, and the instruction set."""
    return {
        "quantrim": __version__,
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "isa": backend.current_isa(),
    }


def peak_memory() -> int:
    """Return the most bytes that this process has had in memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
