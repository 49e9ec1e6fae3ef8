"""The `quantization_config` of compressed-tensors: which module is stored by which scheme."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from .compressed_tensors import INT, PACKED, Scheme

# modules that look rows up instead of multiplying: not of the class "Linear" that readers match
_EMBEDDING = re.compile(r"embed|(^|[._])(wte|wpe|tok|position|pos)($|[._])", re.IGNORECASE)
_COMPONENTS = 64  # of a module name that patterns are made for; stranger names are listed one by one
_ANY_PREFIX = r"(.*\.)?"  # a model with a head holds the base model's modules under one more name
_OWN_PATTERN = re.compile(r"re:(\(\.\*\\\.\)\?)?((?:\\d\+|\\.|[^\\.^$*+?{}\[\]|()])+)\$", re.DOTALL)

_Shape = tuple[str | None, ...]  # a module name's components, None for a number


def quantization_config(schemes: Mapping[str, Scheme], others: Iterable[str] = ()) -> dict[str, Any]:
    """The object for config.json.

    schemes: module name -> scheme of its compressed weight. others: modules whose matrices stay as they were.
    Where all products (embeddings aside) share one scheme the target is the class name "Linear", with the
    rest ignored by name; otherwise targets are patterns for exactly these modules.
    """
    others = list(others)
    linear = {scheme for module, scheme in schemes.items() if not is_embedding(module)}
    by_class = next(iter(linear)) if len(linear) == 1 else None
    members: dict[Scheme, list[str]] = defaultdict(list)
    for module, scheme in schemes.items():
        members[scheme].append(module)
    patterns = _Patterns(dict.fromkeys(others) | dict(schemes))
    groups: dict[str, Any] = {}
    for number, (scheme, modules) in enumerate(members.items()):
        named = [module for module in modules if scheme != by_class or is_embedding(module)]
        targets = (["Linear"] if scheme == by_class else []) + patterns.cover(named)
        groups[f"group_{number}"] = _group(scheme, targets)
    ignore = patterns.cover(others)
    if by_class and not any(module.split(".")[-1] == "lm_head" for module in (*schemes, *others)):
        ignore.append("lm_head")  # tied to the embedding: a Linear of the model, but not of the checkpoint
    formats = {scheme.format for scheme in members}
    return {
        "config_groups": groups,
        "format": formats.pop() if len(formats) == 1 else "mixed-precision" if formats else PACKED,
        "global_compression_ratio": None,
        "ignore": ignore,
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def is_embedding(module: str) -> bool:
    """Whether a module of this name looks rows up (by the names that models give to such modules)."""
    return bool(_EMBEDDING.search(".".join(module.split(".")[-2:])))


def usual_format(bits: int, group_size: int | str) -> str:
    """int-quantized for 8 bits per channel, whose codes are the bytes of an int8 matrix; else pack-quantized."""
    return INT if bits == 8 and group_size == "channel" else PACKED


def reader_notes(schemes: Mapping[str, Scheme]) -> list[str]:
    """What vLLM and transformers (5.23) do not open, or only when asked in a special way."""
    kinds = set(schemes.values())
    embeddings = {scheme for module, scheme in schemes.items() if is_embedding(module)}
    asymmetric = any(scheme.format == PACKED and not scheme.symmetric for scheme in kinds)
    notes = []
    if embeddings:
        notes.append("vLLM opens no compressed embeddings; exclude='*embed*' copies them")
    if any(scheme.bits not in (4, 8) or scheme.format == INT for scheme in kinds - embeddings):
        notes.append("vLLM opens symmetric codes of 4 and 8 bits; transformers opens all")
    if asymmetric or any(scheme.format == PACKED for scheme in embeddings):
        what = "asymmetric codes" if asymmetric else "embeddings below 8 bits"
        how = "only with CompressedTensorsConfig(dequantize=True)"
        if len(kinds) > 1:
            how = "only where all tensors share one scheme"
        notes.append(f"transformers opens {what} {how}")
    return notes


def bits_for(config: Mapping[str, Any], module: str) -> set[int]:
    """The bits that a config may mean for a module: those of the groups that name it, else of all groups.

    Patterns are looked at only where they are of the plain kind that `quantization_config` writes: those of a
    stranger might take for ever.
    """
    groups = config.get("config_groups")
    named: set[int] = set()
    every: set[int] = set()
    for group in groups.values() if isinstance(groups, dict) else ():
        weights: Any = group.get("weights") if isinstance(group, dict) else None
        bits = weights.get("num_bits") if isinstance(weights, dict) else None
        if type(bits) is not int or not 1 <= bits <= 8:
            continue
        every.add(bits)
        targets = group.get("targets")
        if isinstance(targets, list) and any(_names(target, module) for target in targets):
            named.add(bits)
    return named or every


def _names(target: object, module: str) -> bool:
    if not isinstance(target, str):
        return False
    if target == module:
        return True
    return bool(_OWN_PATTERN.fullmatch(target) and re.match(target[3:], module))


def _group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    weights: dict[str, Any] = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": None if scheme.group_size == "channel" else scheme.group_size,
        "num_bits": scheme.bits,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": scheme.strategy,
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
        self._schemes = schemes
        self._whole: dict[_Shape, set[Scheme | None]] = defaultdict(set)  # of names with this shape
        self._ends: dict[_Shape, set[Scheme | None]] = defaultdict(set)  # of names that end in this shape
        for module, scheme in schemes.items():
            shape = _shape(module)
            if len(shape) > _COMPONENTS:
                continue
            self._whole[shape].add(scheme)
            for first in range(len(shape)):
                self._ends[shape[first:]].add(scheme)

    def cover(self, modules: Iterable[str]) -> list[str]:
        """The patterns for these modules, each once, in the order of the first module that it covers."""
        return list(dict.fromkeys(self._pattern(module) for module in modules))

    def _pattern(self, module: str) -> str:
        shape = _shape(module)
        if len(shape) <= _COMPONENTS:
            body = r"\.".join(r"\d+" if part is None else re.escape(part) for part in shape)
            if len(self._ends[shape]) == 1:
                return f"re:{_ANY_PREFIX}{body}$"
            if len(self._whole[shape]) == 1:
                return f"re:{body}$"
        return f"re:{re.escape(module)}$" if module.startswith("re:") else module


def _shape(module: str) -> _Shape:
    return tuple(None if part.isascii() and part.isdigit() else part for part in module.split("."))
