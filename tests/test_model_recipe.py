"""Recipes: read strictly, matched in order, written so that they read back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantrim import options, words
from quantrim.model import Recipe, Rule, Settings
from quantrim.model.recipe import options_of, recipe_from_options, settings_of
from quantrim.model.recipe.settings import (
    Blocks,
    Clusters,
    Codebook,
    Floats,
    Fraction,
    NofM,
    ScoredBy,
    Shrink,
    Threshold,
    UniformGrid,
)

TEXT = """
bits = 3
group_size = 64
min_elements = 100

[[rule]]
match = "lm_head.*"
keep = true

[[rule]]
match = "*.down.weight"
bits = 8
group_size = "channel"
prune = "2:4"

[[rule]]
match = "*.norm[12]*"
prune = 0.25
prune_axis = 1
"""
NAMES = ["lm_head.weight", "a.down.weight", "a.up.weight", "a.norm1.weight"]


def test_first_match_decides_and_rules_inherit() -> None:
    found = Recipe.from_toml(TEXT).assign(NAMES)
    assert found["lm_head.weight"] == settings_of(bits=3, group_size=64, keep=True)
    assert found["a.down.weight"] == settings_of(bits=8, group_size="channel", prune="2:4")
    assert found["a.up.weight"] == settings_of(bits=3, group_size=64)
    assert found["a.norm1.weight"] == settings_of(bits=3, group_size=64, prune=0.25, prune_axis=1)
    assert Recipe.from_toml(TEXT).min_elements == 100


def test_the_usual_group_follows_the_bits() -> None:
    recipe = Recipe.from_toml('[[rule]]\nmatch = "a"\nbits = 8\n[[rule]]\nmatch = "b"\nbits = 2')
    found = recipe.assign(["a", "b", "c"])
    assert [found[name].group for name in "abc"] == ["channel", 32, 32]


@pytest.mark.promise("B47")
def test_a_rule_that_matches_nothing() -> None:
    with pytest.raises(ValueError, match=r"rule 1, match 'lm_head\.\*', matched 0 tensors"):
        Recipe.from_toml(TEXT).assign(["a.down.weight", "a.norm1.weight"])


@pytest.mark.promise("B47")
def test_a_rule_that_is_never_reached() -> None:
    recipe = Recipe(rules=(Rule("a*", settings_of(bits=2)), Rule("ab", settings_of(bits=3))))
    with pytest.raises(ValueError, match="rule 2, match 'ab', matched 1 tensor, but rules before it match all"):
        recipe.assign(["ab", "ac"])


@pytest.mark.promise("B47")
@pytest.mark.parametrize("pattern", ["*a" * 400, "?*" * 400 + "b", "*" * 900 + "b", "[a-z]*" * 150 + "b"])
def test_pathological_patterns_take_little_time(pattern: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(ValueError, match="matched 0 tensors"):
        Recipe(rules=(Rule(pattern, Settings()),)).assign(["a" * 20_000 + "!"])
    assert time.perf_counter() - begin < 20  # or for ever


@pytest.mark.promise("B40", "B41", "B42", "B48")
@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("bit = 4", ValueError, "recipe must have keys among keep, bits, .*, not 'bit'"),
        (
            '[[rule]]\nmatch = "*"\nbits = 4\nmin_elements = 3',
            ValueError,
            "rule 1 must have keys among match, keep",
        ),
        ("[[rule]]\nbits = 4", ValueError, "rule 1 must have a match"),
        ("[[rule]]\nmatch = 4", TypeError, "rule 1: match must be a str"),
        ('[[rule]]\nmatch = ""', ValueError, r"rule 1: match must be 1\.\.1000 characters, not 0"),
        ("rule = 3", TypeError, "rule must be a list of tables"),
        ("bits = 9", ValueError, r"bits must be an integer of 2\.\.8, not 9"),
        ("bits = 1", ValueError, r"bits must be an integer of 2\.\.8, not 1"),
        ("bits = 4.0", TypeError, r"bits must be an integer of 2\.\.8, not 4\.0"),
        ("bits = true", TypeError, r"bits must be an integer of 2\.\.8, not True"),
        ('bits = "4"', TypeError, r"bits must be an integer of 2\.\.8, not '4'"),
        ("group_size = 0", ValueError, "group_size must be an integer of 1"),
        ("group_size = -1", ValueError, "group_size must be an integer of 1"),
        ('group_size = "tensor"', ValueError, "group_size='tensor' must not be given without codebook"),
        ("symmetric = 1", TypeError, "symmetric must be True or False, not 1"),
        ('keep = "yes"', TypeError, "keep must be True or False, not 'yes'"),
        ('scale = "max"', ValueError, "scale must be one of 'absmax', 'mse', 'power_of_two', not 'max'"),
        ('scale_dtype = "float64"', ValueError, "scale_dtype must be one of .*, not 'float64'"),
        ('rounding = "up"', ValueError, "rounding must be one of"),
        ("seed = -1", ValueError, "seed must be an integer"),
        ("prune = 1.5", ValueError, r"prune must be a number of 0\.0\.\.1\.0, not 1\.5"),
        ("prune = nan", ValueError, r"prune must be a number of 0\.0\.\.1\.0, not nan"),
        ('prune = "4:2"', ValueError, 'prune must be a fraction of 0..1 or "n:m"'),
        ('prune = "2:64"', ValueError, 'prune must be a fraction of 0..1 or "n:m"'),
        ('prune = "half"', ValueError, 'prune must be a fraction of 0..1 or "n:m"'),
        ("prune = true", TypeError, "prune must be a number"),
        ("prune = 0.5\nprune_axis = 0", ValueError, r"prune_axis must be an integer of 1\.\.1, not 0"),
        ('prune = "2:4"\nprune_axis = 1', ValueError, "prune_axis=1 must not be given with prune='2:4'"),
        ("min_elements = -1", ValueError, "min_elements must be an integer of 0"),
        ("bits = ", ValueError, "recipe must be TOML"),
        ("a = " + "[" * 100_000, ValueError, "recipe must be TOML"),
    ],
)
def test_what_a_recipe_may_not_say(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Recipe.from_toml(text)


GROUPS = st.one_of(st.none(), st.just("channel"), st.integers(1, 4096))
SCALE_DTYPES = st.sampled_from([None, "float16", "bfloat16", "float32"])
STORAGES = st.sampled_from(["auto", "dense", "sparse"])
SHARES = st.floats(0, 1)
WEIGHT_SCORES = st.one_of(
    st.sampled_from(["magnitude", "random"]),
    st.builds(ScoredBy, st.sampled_from(words.DATA_SCORES), st.sampled_from(["data.safetensors", "other"])),
)
AMONG = st.sampled_from(["tensor", "global"])
SETTINGS = st.builds(
    Settings,
    prune=st.one_of(
        st.none(),
        st.builds(Threshold, st.floats(0, 9), st.sampled_from(words.THRESHOLD_MODES)),
        st.builds(Shrink, st.floats(0.125, 9), st.floats(0, 9), st.booleans()),
        st.builds(NofM, st.just(2), st.sampled_from([4, 8]), WEIGHT_SCORES),
        st.builds(Fraction, SHARES, st.sampled_from(["row", "tensor", "global"]), WEIGHT_SCORES),
        st.builds(Blocks, SHARES, st.sampled_from(["row", "column", (4, 8)]), AMONG, WEIGHT_SCORES | st.just("l2")),
    ),
    codes=st.one_of(
        st.builds(
            UniformGrid, st.integers(2, 8), GROUPS, st.booleans(), st.sampled_from([None, *words.SCALE_RULES, 0.5]),
            SCALE_DTYPES, st.sampled_from(words.ROUNDINGS), STORAGES,
        ),
        st.builds(Codebook, st.sampled_from(["nf4", (-1.0, 0.0, 0.5)]), GROUPS | st.just("tensor"), SCALE_DTYPES),
        st.builds(Clusters, st.integers(2, 256), GROUPS | st.just("tensor")),
        st.builds(Floats, STORAGES),
    ),
    recognize=st.booleans(),
    reader=st.sampled_from([None, *words.READERS]),
    action=st.sampled_from(["compress", "keep", "drop"]),
)  # fmt: skip
GLOBS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@given(SETTINGS, st.lists(st.builds(Rule, GLOBS, SETTINGS), max_size=3), st.integers(0, 10**6))
def test_a_recipe_reads_back_as_it_was(defaults: Settings, rules: list[Rule], min_elements: int) -> None:
    recipe = Recipe(defaults, tuple(rules), min_elements)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.from_dict(recipe.as_dict()) == recipe


def test_options_make_the_same_recipes() -> None:
    assert recipe_from_options() == Recipe()
    assert recipe_from_options(bits=3, prune=0.5) == Recipe(settings_of(bits=3, prune=0.5))
    found = recipe_from_options(bits=3, include="a*", exclude=["*b"]).assign(["ab", "ac", "cc"])
    assert [found[name].keep for name in ("ab", "ac", "cc")] == [True, False, True]
    assert found["ac"].bits == 3
    assert recipe_from_options(bits=None, prune=0.5) == Recipe(settings_of(bits=None, prune=0.5))
    assert recipe_from_options(prune=None, scale=None) == Recipe()


@pytest.mark.promise("fault-D4")
def test_bits_none_in_a_recipe() -> None:
    recipe = Recipe.from_toml('prune = 0.5\n[[rule]]\nmatch = "a"\nbits = "none"\n[[rule]]\nmatch = "b"\nbits = 8')
    assert [recipe.assign("abc")[name].bits for name in "abc"] == [None, 8, None]  # pruning alone rounds nothing
    assert 'bits = "none"' in recipe.to_toml()
    for key, value in {"group_size": 32, "symmetric": False, "scale": "mse", "seed": 3}.items():
        with pytest.raises(ValueError, match=f"{key}={value!r} must not be given with bits=None, which"):
            recipe_from_options(bits=None, prune=0.5, **{key: value})  # type: ignore[arg-type]


def test_a_recipe_comes_as_table_object_or_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(TEXT)
    recipe = Recipe.from_toml(TEXT)
    assert recipe_from_options(path) == recipe_from_options(str(path)) == recipe_from_options(recipe) == recipe
    assert recipe_from_options(recipe.as_dict()) == recipe


@pytest.mark.promise("B48")
@pytest.mark.parametrize("extra", [{"bits": 4}, {"exclude": "*"}, {"include": ["a"]}, {"min_elements": 0}])
def test_recipe_and_options_together(extra: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"either a recipe or options, not recipe and {next(iter(extra))}"):
        recipe_from_options(Recipe(), **extra)


@pytest.mark.promise("B48")
def test_options_that_are_none_of_ours() -> None:
    with pytest.raises(ValueError, match="options must have keys among"):
        recipe_from_options(nbits=4)
    with pytest.raises(TypeError, match="recipe must be a Recipe, a table, or the path"):
        recipe_from_options(4)
    with pytest.raises(TypeError, match="exclude must be a glob or a list of globs"):
        recipe_from_options(exclude=[4])  # type: ignore[list-item]


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"bits = 4 # \xff")
    with pytest.raises(ValueError, match=r"r\.toml' must be UTF-8: .* at byte 11"):
        Recipe.from_file(path)
    path.write_bytes(b"bits = 44")
    with pytest.raises(ValueError, match=r"r\.toml': bits must be"):
        Recipe.from_file(path)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ValueError, match="must be at most 1048576 bytes"):
        Recipe.from_file(path)
    with pytest.raises(FileNotFoundError):
        Recipe.from_file(tmp_path / "absent.toml")


# What a rule inherits


@pytest.mark.parametrize(
    ("top", "rule", "expected"),
    [
        ({"prune": 0.5, "prune_axis": 1}, {"prune": "2:4"}, {"prune": "2:4"}),
        ({"threshold": 0.1}, {"prune": 0.5}, {"prune": 0.5}),
        ({"prune": 0.5, "prune_axis": 1}, {"prune_pattern": "row"}, {"prune": 0.5, "prune_pattern": "row"}),
        ({"prune": 0.5, "prune_pattern": "row"}, {"prune_axis": 1}, {"prune": 0.5, "prune_axis": 1}),
        ({"prune": 0.5, "prune_score": "random", "seed": 3}, {"prune": "none"}, {"bits": None}),
        ({"bits": 3, "symmetric": False}, {"codebook": "nf4"}, {"codebook": "nf4"}),
        ({"codebook": "nf4"}, {"codebook": "none"}, {"bits": None}),
        ({"codebook": "nf4", "group_size": 32}, {"bits": 3}, {"bits": 3, "group_size": 32}),
        ({"bits": "none", "group_size": 32}, {"bits": 3}, {"bits": 3, "group_size": 32}),
        ({"bits": 4, "storage": "sparse"}, {"clusters": 4}, {"clusters": 4}),
        ({"prune_axis": 1, "bits": 4}, {"prune": 0.5}, {"prune": 0.5, "prune_axis": 1, "bits": 4}),
        ({"keep": True}, {"drop": True}, {"drop": True}),
    ],
    ids=str,
)
def test_what_a_rule_says_counts(top: dict[str, Any], rule: dict[str, Any], expected: dict[str, Any]) -> None:
    recipe = Recipe.from_dict({**top, "rule": [{"match": "a", **rule}]})
    assert recipe.rules[0].settings == settings_of(**expected)
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"bits": "none", "group_size": 32}, "group_size=32 must not be given with bits=None"),
        ({"prune_axis": 1, "rule": [{"match": "a", "bits": 3}]}, "prune_axis=1 must not be given without prune"),
        ({"rule": [{"match": "a", "prune_axis": 1}]}, "rule 1: prune_axis=1 must not be given without prune"),
        ({"prune": "2:4", "rule": [{"match": "a", "prune_axis": 1}]}, "rule 1: prune_axis=1 must not .* prune='2:4'"),
        ({"codebook": "nf4", "rule": [{"match": "a", "storage": "sparse"}]}, "rule 1: storage='sparse' must not be"),
        ({"rule": [{"match": "a", "bits": 4, "clusters": 4}]}, "rule 1: clusters=4 must not be given with bits=4"),
    ],
    ids=str,
)
def test_what_says_nothing_or_two_things_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(table)


def test_every_setting_is_a_key_of_the_table() -> None:
    assert options_of(Settings()).keys() == options.OF_RULES.keys()
