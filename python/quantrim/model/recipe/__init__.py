"""The request: a recipe of rules, each of which gives the settings of the tensors that it matches."""

from .recipe import Recipe, Rule, recipe_from_options
from .resolve import options_of, settings_of, table_of
from .settings import Settings
from .unit_removal import UnitRemoval

__all__ = [
    "Recipe",
    "Rule",
    "Settings",
    "UnitRemoval",
    "options_of",
    "recipe_from_options",
    "settings_of",
    "table_of",
]
