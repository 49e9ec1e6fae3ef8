"""The `quantization_config` of compressed-tensors: which module has which scheme."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Protocol

from ..tensor import GroupSize

PACKED, INT = "pack-quantized", "int-quantized"  # formats

_EXPERT = re.compile(r"(^|\.)experts\.[0-9]+\.")  # one of a list of them
_COMPONENTS = 64  # of a module name that patterns are made for; stranger names are listed one by one
_ANY_PREFIX = r"(.*\.)?"  # a model with a head holds the base model's modules under one more name
_OWN_PATTERN = re.compile(r"re:(\(\.\*\\\.\)\?)?((?:\\d\+|\\.|[^\\.^$*+?{}\[\]|()])+)\$", re.DOTALL)
_CLASS, _ESCAPED = re.compile(r"\\[0-9A-Za-z]"), re.compile(r"\\(.)", re.DOTALL)  # of such a pattern



class Scheme(Protocol):
    """The scheme of a module, as compressed-tensors calls it."""

    @property
    def bits(self) -> int: ...
    @property
    def group_size(self) -> GroupSize: ...
    @property
    def symmetric(self) -> bool: ...
    @property
    def format(self) -> str: ...


_Shape = tuple[str | None, ...]  # a module name's components, None for a number


def quantization_config(
    schemes: Mapping[str, Scheme],
    others: Iterable[str] = (),
    absent: Iterable[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the object for config.json.

    schemes: module name -> scheme of its compressed weight. others: modules whose matrices stay as they were. absent:
    ends of names of linear modules that a reader may have and the checkpoint has not, "*" for numbers. renamed: module
    name -> the end of the name that a reader has for it.

    Targets are patterns for exactly these modules, never the class name "Linear": a reader may give the model a head
    of its own. All others are named to be ignored, which vLLM wants of each linear module that is no target.
    """
    others = list(others)
    theirs = {end: schemes[module] for module, end in (renamed or {}).items() if module in schemes}
    kept = [*others, *(end for module, end in (renamed or {}).items() if module not in schemes)]
    members: dict[Scheme, list[str]] = defaultdict(list)
    for module, scheme in (theirs | dict(schemes)).items():
        members[scheme].append(module)
    patterns = _Patterns(dict.fromkeys(kept) | theirs | dict(schemes))
    # transformers decodes experts by the first group that speaks of some, if only of shared ones
    ordered = sorted(members.items(), key=lambda item: not any(map(_EXPERT.search, item[1])))
    groups = {
        f"group_{number}": _group(scheme, patterns.cover(modules)) for number, (scheme, modules) in enumerate(ordered)
    }
    whole = set(map(_shape, [*schemes, *theirs]))
    shapes = {shape[first:] for shape in whole for first in range(len(shape))}
    elsewhere = [_regex(end) for end in map(_shape, absent) if end not in shapes]
    formats = {scheme.format for scheme in members}
    return {
        "config_groups": groups,
        # for transformers: make floats of all codes as a model is opened; of several schemes it would take one for all
        "dequantize": len(groups) == 1,
        "format": formats.pop() if len(formats) == 1 else "mixed-precision" if formats else PACKED,
        "global_compression_ratio": None,
        "ignore": list(dict.fromkeys([*patterns.cover(others), *elsewhere])),
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def reader_notes(schemes: Iterable[Scheme]) -> list[str]:
    """List what vLLM does not open, and what transformers (5.24) opens only when asked in a special way."""
    kinds = set(schemes)
    notes = []
    if any(scheme.bits not in (4, 8) for scheme in kinds):
        notes.append("vLLM opens codes of 4 and 8 bits alone; transformers opens all")
    if any(scheme.format == INT for scheme in kinds):
        notes.append("vLLM opens no codes of 8 bits under the name of the weight; transformers does")
    return notes


class StatedBits:
    """The bits that a config may mean for modules: those of the groups that name them, else of all groups.

    Patterns are matched only where they are of the plain kind that `quantization_config` writes: those of a
    stranger might take for ever. Names, of which a config may list all, are looked up.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._every: set[int] = set()
        self._exact: dict[str, set[int]] = defaultdict(set)
        self._ends: dict[str, set[int]] = defaultdict(set)  # of names, after any prefix
        self._patterns: dict[str, set[int]] = defaultdict(set)
        groups = config.get("config_groups")
        for group in groups.values() if isinstance(groups, dict) else ():
            weights: Any = group.get("weights") if isinstance(group, dict) else None
            bits = weights.get("num_bits") if isinstance(weights, dict) else None
            if type(bits) is not int or not 1 <= bits <= 8:
                continue
            self._every.add(bits)
            targets = group.get("targets")
            for target in targets if isinstance(targets, list) else ():
                if isinstance(target, str):
                    self._add(target, bits)

    def _add(self, target: str, bits: int) -> None:
        self._exact[target].add(bits)
        own = _OWN_PATTERN.fullmatch(target)
        if own is None:
            return
        if _CLASS.search(target):
            self._patterns[target[3:]].add(bits)
        else:
            (self._ends if own[1] else self._exact)[_ESCAPED.sub(r"\1", own[2])].add(bits)

    @cached_property
    def _compiled(self) -> list[tuple[re.Pattern[str], set[int]]]:
        return [(re.compile(pattern), bits) for pattern, bits in self._patterns.items()]

    def of(self, module: str) -> set[int]:
        """Return the bits that a module may have; none where the config states none at all."""
        words = module.split(".")
        named = set(self._exact.get(module, ()))
        named.update(*(self._ends.get(".".join(words[first:]), ()) for first in range(len(words))))
        named.update(*(bits for pattern, bits in self._compiled if pattern.match(module)))
        return named or set(self._every)


def _group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    weights: dict[str, Any] = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": None if scheme.group_size == "channel" else scheme.group_size,
        "num_bits": scheme.bits,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": "channel" if scheme.group_size == "channel" else "group",
        "symmetric": scheme.symmetric,
        "type": "int",
    }
    return {
        "format": scheme.format,
        "input_activations": None,
        "output_activations": None,
        "targets": targets,
        "weights": weights,
    }


class _Patterns:
    """Regular expressions that cover some modules and none with another scheme."""

    def __init__(self, schemes: Mapping[str, Scheme | None]) -> None:
        self._modules = schemes
        self._whole: dict[_Shape, set[Scheme | None]] = defaultdict(set)  # of names with this shape
        for module, scheme in schemes.items():
            self._whole[_shape(module)].add(scheme)
        self._ends: dict[_Shape, set[Scheme | None]] = defaultdict(set)  # of names that end in this shape
        for shape, found in self._whole.items():
            for first in range(len(shape) if len(shape) <= _COMPONENTS else 0):
                self._ends[shape[first:]] |= found
        self._known: dict[_Shape, str] = {}  # patterns that were made for whole shapes

    @cached_property
    def _inner(self) -> set[str]:
        """The names of all modules without their first words."""
        split = [words for words in (module.split(".") for module in self._modules) if len(words) <= _COMPONENTS]
        return {".".join(words[first:]) for words in split for first in range(1, len(words))}

    def cover(self, modules: Iterable[str]) -> list[str]:
        """Return the patterns for these modules, each once, in the order of the first module that it covers."""
        return list(dict.fromkeys(self._pattern(module) for module in modules))

    def _pattern(self, module: str) -> str:
        shape = _shape(module)
        if shape not in self._known:
            self._known[shape] = self._for_shape(shape) if len(shape) <= _COMPONENTS else ""
        if self._known[shape]:
            return self._known[shape]
        if len(shape) <= _COMPONENTS and module not in self._inner:
            return f"re:{_ANY_PREFIX}{re.escape(module)}$"
        return f"re:{re.escape(module)}$" if module.startswith("re:") else module

    def _for_shape(self, shape: _Shape) -> str:
        """Return the pattern for all names of this shape; '' where they have several schemes."""
        # from the name of a list of layers on: readers call what comes before it differently
        numbers = [k for k, word in enumerate(shape) if word is None]
        for end in (shape[max(numbers[0] - 1, 0) :] if numbers else shape, shape):
            if len(self._ends[end]) == 1:
                return _regex(end)
        return _regex(shape, anything_before=False) if len(self._whole[shape]) == 1 else ""


def _regex(shape: _Shape, anything_before: bool = True) -> str:
    body = r"\.".join(r"\d+" if word is None else re.escape(word) for word in shape)
    return f"re:{_ANY_PREFIX if anything_before else ''}{body}$"


def _shape(module: str) -> _Shape:
    return tuple([None if word == "*" or (word.isdigit() and word.isascii()) else word for word in module.split(".")])
