"""From options to Settings, and back: the one place that says which options do not go together.

A recipe's rules inherit the options above them. What a rule says itself counts: of what it inherits, all is left out
that another method replaces (`codebook` in place of `bits`), or that would say nothing beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...option_values import NONE
from ...options import OF_RULES, Excludes, Given, is_on
from ...words import MX_CODEBOOKS
from .settings import (
    MX_GROUP,
    Blocks,
    Clusters,
    Codebook,
    Codes,
    Floats,
    Fraction,
    NofM,
    Prune,
    Scored,
    ScoredBy,
    Settings,
    Shrink,
    Threshold,
    UniformGrid,
)

Values = dict[str, Any]  # of options, by name

_GRIDS = (("bits",), ("codebook",), ("clusters",))
_PRUNING = (("prune",), ("threshold",), ("shrink_l1", "shrink_l2"))
# which of these is asked for asks for codes; the others go with pruning alone
_ROUNDING = {"bits", "codebook", "clusters", "recognize", "group_size", "symmetric", "scale", "scale_dtype", "rounding"}


class Resolved(NamedTuple):
    """values: what was asked for, with what follows; rules inherit them. idle: those of them that say nothing beside
    the others, with the error that it is to ask for them."""

    settings: Settings
    values: Values
    idle: dict[str, str]


def refuse_idle(found: Resolved, names: Iterable[str]) -> None:
    """Raise ValueError for the first of these names that says nothing."""
    for name in names:
        if name in found.idle:
            raise ValueError(found.idle[name])


def settings_of(**asked: Any) -> Settings:
    """Return the settings of options, by name; ValueError or TypeError for those that are wrong, or do not go together.

    >>> settings_of(prune="2:4")
    Settings(prune=NofM(n=2, m=4, score='magnitude'), codes=Floats(storage='auto'), recognize=False, reader=None, \
seed=0, action='compress')
    >>> settings_of(prune="2:4", prune_axis=1)
    Traceback (most recent call last):
    ValueError: prune_axis=1 must not be given with prune='2:4', but with a fraction
    """
    found = resolve(asked)
    refuse_idle(found, asked)
    return found.settings


def resolve(asked: Mapping[str, Any], inherited: Mapping[str, Any] | None = None) -> Resolved:
    """Return what options mean. inherited: what a rule finds above itself; None for what is on top. ValueError where
    options contradict each other; what merely says nothing is in the result."""
    own = {name: _checked(name, value) for name, value in asked.items()}
    if inherited is None:
        values = _completed(own)
    else:
        values = {**_not_replaced(inherited, own), **own}
        if "bits" not in own and _of_values(values):
            values["bits"] = None
    _refuse_contradictions(values, own)
    idle = dict(_idle(values))
    said = {name: value for name, value in values.items() if name not in idle}
    _refuse_incomplete(said)
    return Resolved(_built(said), values, idle)


def _checked(name: str, value: Any) -> Any:
    option = OF_RULES[name]
    return None if value is None and option.optional else option.check(name, value)


def _completed(own: Values) -> Values:
    """Add what nobody asked for: no codes beside pruning alone, NF4 for bitsandbytes, else 4 bits."""
    values = dict(own)
    if _of_values(own):
        return {"bits": None, **values}
    if prunes_alone(name for name, value in own.items() if value or name in _ROUNDING):
        return {"bits": None, **values}
    if own.get("reader") == "bitsandbytes" and not own.keys() & _ROUNDING:
        return {"bits": None, "codebook": "nf4", **values}
    return {"bits": 4, **values}


def _of_values(values: Values) -> bool:
    """Tell whether codes are of values that are no grid."""
    return values.get("codebook") is not None or values.get("clusters") is not None


def prunes_alone(names: Iterable[str]) -> bool:
    """Tell whether among these options some prune, and none asks for codes."""
    asked = set(names)
    return not asked & _ROUNDING and any(key in asked for way in _PRUNING for key in way)


def _not_replaced(inherited: Mapping[str, Any], own: Values) -> Values:
    """Return what a rule inherits; another method of its own replaces the one above."""
    kept = dict(inherited)
    for methods in (_GRIDS, _PRUNING):
        named = [way for way in methods if any(is_on(key, own.get(key)) or (key == "bits" in own) for key in way)]
        for way in methods if named else ():
            for key in way if way not in named else ():
                kept.pop(key, None)
    if is_on("keep", own.get("keep")) or is_on("drop", own.get("drop")):
        kept = {key: value for key, value in kept.items() if key not in ("keep", "drop")}
    return kept


def _refuse_contradictions(values: Values, own: Values) -> None:
    """Raise ValueError where two options exclude each other; what only qualifies a method, and is inherited, goes."""
    methods = {key for way in (*_GRIDS, *_PRUNING) for key in way}
    for name, other, rule in _clashes(values, own):
        if name in own and other.name not in own:
            del values[other.name]
        elif name not in own and other.name in own and name not in methods:
            del values[name]
        else:
            raise ValueError(f"{_said(other.name, values)} must not be given with {_said(name, values)}{rule.why}")


def _clashes(values: Values, own: Values) -> Iterator[tuple[str, Given, Excludes]]:
    for name, option in OF_RULES.items():
        for rule in option.excludes:
            for other in rule.others:
                if not other.holds(values) or name not in values:
                    continue
                # bits=None says as much of codes as a number does
                asked = name in own if name == "bits" else is_on(name, values[name])
                if asked and rule.when(values[name]):
                    yield name, other, rule


def _idle(values: Values) -> Iterator[tuple[str, str]]:
    """Yield options that say nothing beside the others, with the error that it is to ask for them."""
    said = dict(values)
    for name in OF_RULES:  # those that others are of come first
        if is_on(name, said.get(name)) and not _says_something(name, said):
            yield name, f"{_said(name, values)} must not be given {_lacking(OF_RULES[name].of, values)}"
            del said[name]


def _says_something(name: str, values: Values) -> bool:
    conditions = OF_RULES[name].of
    return not conditions or any(each.holds(values) for each in conditions)


def _lacking(conditions: tuple[Given, ...], values: Values) -> str:
    """Name what there is in place of what an option is of."""
    names = [each.name for each in conditions]
    if "bits" in names:
        other = next((key for key in ("codebook", "clusters") if is_on(key, values.get(key))), None)
        return f"with {_said(other, values)}" if other else "with bits=None, which writes no codes"
    if conditions[0].values:
        return f"with {_said(names[0], values)}"
    return f"without {' or '.join(names)}"


def _refuse_incomplete(values: Values) -> None:
    """Raise ValueError where a value needs another option, or does not fit it."""
    for name, value in values.items():
        for rule in OF_RULES[name].needs:
            if value is None or not rule.when(value) or any(other.holds(values) for other in rule.others):
                continue
            (first, *more) = rule.others
            names = ", ".join(each.name for each in rule.others[:-1])
            if first.values:
                wanted = f"with {_said(first.name, values)}, but with {first.name}={first.values[0]!r}"
            else:
                wanted = f"without {names} or {rule.others[-1].name}" if more else f"without {first.name}"
            raise ValueError(f"{_said(name, values)} must not be given {wanted}{rule.why}")
    if values.get("codebook") in MX_CODEBOOKS and values.get("group_size") not in (None, MX_GROUP):
        raise ValueError(
            f"group_size must be {MX_GROUP} with codebook={values['codebook']!r}, not {values['group_size']!r}"
        )
    if isinstance(values.get("scale"), float):
        dtype = values.get("scale_dtype") or "float16"
        with np.errstate(over="ignore"):
            scale = float(np.float32(values["scale"]).astype(np.dtype(dtype)))
        if not 0 < scale < np.inf:
            raise ValueError(f"scale must be positive and finite in {dtype}, not {values['scale']}")


def _said(name: str, values: Values) -> str:
    return f"{name}={values.get(name, OF_RULES[name].default)!r}"


# Values that go together, as types


def _built(values: Values) -> Settings:
    action = "drop" if values.get("drop") else "keep" if values.get("keep") else "compress"
    said = _those(values, "recognize", "reader", "seed")
    return Settings(prune=_prune(values), codes=_codes(values), action=action, **said)  # type: ignore[arg-type]


def _those(values: Values, *names: str) -> Values:
    return {name: values[name] for name in names if name in values}


def _codes(values: Values) -> Codes:
    if values.get("clusters") is not None:
        return Clusters(values["clusters"], **_those(values, "group_size"))
    if values.get("codebook") is not None:
        return Codebook(values["codebook"], **_those(values, "group_size", "scale_dtype"))
    if values["bits"] is None:
        return Floats(**_those(values, "storage"))
    of_grid = ("group_size", "symmetric", "scale", "scale_dtype", "rounding", "storage")
    return UniformGrid(values["bits"], **_those(values, *of_grid))


def _prune(values: Values) -> Prune | None:
    wanted = values.get("prune")
    if values.get("threshold") is not None:
        return Threshold(values["threshold"], values.get("threshold_mode", "magnitude"))
    if values.get("shrink_l1") or values.get("shrink_l2"):
        by_row = values.get("shrink_axis") is not None
        return Shrink(values.get("shrink_l1", 0.0), values.get("shrink_l2", 0.0), by_row)
    if wanted is None:
        return None
    score, among = values.get("prune_score", "magnitude"), values.get("prune_scope", "tensor")
    if values.get("prune_data") is not None:
        score = ScoredBy(score, values["prune_data"])
    if isinstance(wanted, str):
        n, m = map(int, wanted.split(":"))
        return NofM(n, m, score)
    if values.get("prune_pattern") is not None:
        return Blocks(wanted, values["prune_pattern"], among, score)
    return Fraction(wanted, "row" if values.get("prune_axis") is not None else among, score)


def options_of(settings: Settings) -> Values:
    """Return the options that make these settings, all of them, in the order that recipes and reports have; bits is
    None without a grid.

    >>> {name: value for name, value in options_of(settings_of(clusters=4)).items() if is_on(name, value)}
    {'clusters': 4}
    """
    grid = settings.codes if isinstance(settings.codes, UniformGrid) else UniformGrid()
    prune = settings.prune
    scored = prune if isinstance(prune, Scored) else Fraction(0.0)
    among = scored.among if isinstance(scored, (Fraction, Blocks)) else "tensor"
    limit = prune if isinstance(prune, Threshold) else None
    shrink = prune if isinstance(prune, Shrink) else Shrink(0.0, 0.0)
    return {
        "keep": settings.keep,
        "bits": settings.bits,
        "group_size": settings.group_size,
        "symmetric": grid.symmetric,
        "scale": grid.scale,
        "scale_dtype": settings.scale_dtype,
        "rounding": grid.rounding,
        "seed": settings.seed,
        "prune": prune.pattern if isinstance(prune, NofM) else getattr(prune, "sparsity", None),
        "prune_axis": 1 if among == "row" else None,
        "prune_pattern": settings.prune_pattern,
        "prune_score": scored.score.name if isinstance(scored.score, ScoredBy) else scored.score,
        "prune_data": scored.score.path if isinstance(scored.score, ScoredBy) else None,
        "prune_scope": "global" if among == "global" else "tensor",
        "threshold": None if limit is None else limit.limit,
        "threshold_mode": "magnitude" if limit is None else limit.mode,
        "shrink_l1": shrink.l1,
        "shrink_l2": shrink.l2,
        "shrink_axis": 1 if shrink.by_row else None,
        "drop": settings.drop,
        "codebook": settings.codebook,
        "clusters": settings.clusters,
        "storage": settings.codes.storage if isinstance(settings.codes, (UniformGrid, Floats)) else "auto",
        "recognize": settings.recognize,
        "reader": settings.reader,
    }


def differences(settings: Settings, above: Settings) -> Values:
    """Return what a rule must say for these settings, where those above it are inherited, as a recipe has it."""
    values, inherited = options_of(settings), options_of(above)
    changed = {name for name in values if values[name] != inherited[name] and _says_something(name, values)}
    return {name: value for name, value in table_of(settings).items() if name in changed}


def table_of(settings: Settings) -> Values:
    """Return `options_of` for JSON and TOML: "none" for None, and nothing of a grid where there is none."""
    values = options_of(settings)
    if isinstance(settings.codes, (Codebook, Clusters)):
        of_grids = {name for name, option in OF_RULES.items() if Given("bits") in option.of}
        silent = {"bits", *(name for name in of_grids if not _says_something(name, values))}
        values = {name: value for name, value in values.items() if name not in silent}
    return {name: NONE if value is None else value for name, value in values.items()}


