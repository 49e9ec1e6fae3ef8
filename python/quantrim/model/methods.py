"""Which settings go together: a tensor's codes come from `bits`, from `codebook` or from `clusters`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..codebooks import GROUP_SIZE, MX_GROUP_SIZE

METHODS = ("bits", "codebook", "clusters")  # of which a tensor has one
MX = ("mxfp4", "mxint8")

# keys without meaning beside a method
_CODEBOOK = ("symmetric", "scale", "rounding", "seed")
NOT_WITH: dict[str, tuple[str, ...]] = {"codebook": _CODEBOOK, "clusters": (*_CODEBOOK, "scale_dtype")}


def check_together(given: Iterable[str]) -> None:
    """ValueError where keys that are given in one place exclude each other."""
    keys = list(given)
    methods = [key for key in METHODS if key in keys]
    if len(methods) > 1:
        raise ValueError(f"{' and '.join(methods)} must not be given together: each says what codes stand for")
    for method in methods:
        without_meaning = [key for key in keys if key in NOT_WITH.get(method, ())]
        if "prune_score" in keys and "seed" in without_meaning:  # of a random one
            without_meaning.remove("seed")
        if without_meaning:
            raise ValueError(f"{', '.join(without_meaning)} must not be given with {method}")


def replaced(changed: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that a rule makes, with those that follow: the method that it names replaces an inherited one."""
    methods = [key for key in METHODS if changed.get(key) is not None or (key == "bits" and key in changed)]
    others = [key for key in METHODS[1:] if methods and key not in changed]
    return {**changed, **dict.fromkeys(others)}


def usual_group_size(codebook: object) -> int:
    """Weights that share a scale where nothing is asked for."""
    return MX_GROUP_SIZE if codebook in MX else GROUP_SIZE
