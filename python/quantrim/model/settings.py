"""What can be asked for of one tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import ml_dtypes  # noqa: F401 (numpy knows bfloat16 by it)
import numpy as np

from .. import checks
from ..blocks import Block
from ..codebooks import MX_GROUP_SIZE, check_codebook
from ..files.errors import quote
from ..pruning import MODES
from ..words import DATA_SCORES, NORMS, READERS, ROUNDINGS, SCALE_DTYPES, SCALE_RULES, SCOPES, SCORES, STORAGES
from .methods import MX, NOT_WITH, usual_group_size

# By bench/quality.py: int4 in groups of 32 by least squares keeps a mean cosine of 0.975 of MiniLM's embeddings, in
# groups of 128 by absmax 0.941, for 9 % fewer bytes of codes; 8 bits lose next to nothing either way.
DEFAULT_GROUP = 32
_THRESHOLDS = {"magnitude": "|w| below", "signed": "w up to", "soft": "|w| softly below"}


@dataclass(frozen=True)
class Settings:
    """What happens to one tensor. `keep` copies it untouched; everything else is as in `quantize` and
    `prune`.

    drop: leave it out. bits: None leaves weights in their dtype, to be pruned and no more; then what is said of codes
    means nothing. group_size: an integer, "channel", or None for the usual: "channel" at 8 bits, 32 below.

    prune: a fraction of 0..1, "n:m", or None. What goes first is what scores low by prune_score: "magnitude", "random"
    (by seed; tensors of one shape lose the same places), of rows, columns and blocks "l1" or "l2", or with the arrays
    that the checkpoint prune_data has under the names of the weights: "wanda" (norms of the inputs), "taylor"
    (gradients), "fisher" (squared gradients), "obd" (the Hessian's diagonal), "given" (scores).
    prune_axis: 1 compares the weights of each row among themselves, None those of the whole tensor. prune_pattern:
    "row", "column" or (rows, cols): whole blocks go. prune_scope: "global" is one budget for all tensors that have it
    with the same prune, prune_score and prune_pattern. Without prune, all these mean nothing.

    In place of prune: threshold with threshold_mode, as in `threshold`; or shrink_l1, shrink_l2, as in `shrink`, with
    shrink_axis=1 by rows.

    codebook: instead of bits, what `quantize_codebook` takes: a name or 2..256 ascending values. clusters: instead of
    both, 2..256 values that the weights share, as in `cluster`. With these group_size may be "tensor" as well, usual
    for clusters; that of codebooks is 64, or 32 for MX. storage: "sparse" stores no zeros, "dense" does, "auto"
    does where that saves a quarter of the bytes of codes that a fraction was pruned of.

    scale: None is "mse" for symmetric codes of less than 8 bits that are rounded to nearest, else "absmax"; also a
    number, the scale of all groups: fixed point. recognize: what is already quantized, or has at most 256
    values, is packed without any change, whatever the other settings say (float64 excepted); group_size None tries
    several.

    scale_dtype: None is the one that readers compute in: "bfloat16" for bfloat16 weights, else "float16". reader: who
    must open the result: "transformers", "vllm", "bitsandbytes" (as transformers uses it), or "any": quantrim itself.
    None is transformers and vLLM both for a model folder whose config.json they know by, else "any".
    """

    keep: bool = False
    bits: int | None = 4
    group_size: int | str | None = None
    symmetric: bool = True
    scale: str | float | None = None
    scale_dtype: str | None = None
    rounding: str = "even"
    seed: int = 0
    prune: float | str | None = None
    prune_axis: int | None = None
    prune_pattern: str | Block | None = None
    prune_score: str = "magnitude"
    prune_data: str | None = None
    prune_scope: str = "tensor"
    threshold: float | None = None
    threshold_mode: str = "magnitude"
    shrink_l1: float = 0.0
    shrink_l2: float = 0.0
    shrink_axis: int | None = None
    drop: bool = False
    codebook: str | tuple[float, ...] | None = None
    clusters: int | None = None
    storage: str = "auto"
    recognize: bool = False
    reader: str | None = None

    def __post_init__(self) -> None:
        for name in KEYS:
            value = getattr(self, name)
            if value is not None or name not in OPTIONAL:
                object.__setattr__(self, name, _CHECKS[name](name, value))
        for key, why in _contradictions(self):
            raise ValueError(f"{key} must not be given {why}")
        if self.codebook is not None and self.clusters is not None:
            raise ValueError("codebook and clusters must not be given together")
        if self.group_size == "tensor" and self.codebook is None and self.clusters is None and not self.recognize:
            wanted = '"channel" or an integer without codebook, clusters or recognize'
            raise ValueError(f'group_size must be {wanted}, not "tensor"')
        self._check_scale()
        if self.codebook in MX and self.group_size not in (None, MX_GROUP_SIZE):
            raise ValueError(f"group_size must be {MX_GROUP_SIZE} with {self.codebook}, not {self.group_size!r}")
        if self.storage == "sparse" and (self.codebook is not None or self.clusters is not None):
            raise ValueError("storage='sparse' must not be given with codebook or clusters, whose codes stay dense")
        for key in self.without_meaning:
            object.__setattr__(self, key, None if key == "bits" else _DEFAULTS[key])

    def _check_scale(self) -> None:
        if isinstance(self.scale, float):
            with np.errstate(over="ignore"):
                stored = float(np.float32(self.scale).astype(np.dtype(self.scale_dtype or "float16")))
            if not 0 < stored < np.inf:
                dtype = self.scale_dtype or "float16"
                raise ValueError(f"scale must be positive and finite in {dtype}, not {self.scale}")

    @property
    def without_meaning(self) -> tuple[str, ...]:
        """Keys that say nothing beside the others, and are as by default; bits is None beside codebook and clusters."""
        method = next((key for key in NOT_WITH if getattr(self, key) is not None), None)
        if method is None:
            return ()
        return ("bits", *(key for key in NOT_WITH[method] if not (self.by_chance and key == "seed")))

    @property
    def by_chance(self) -> bool:
        """Whether `seed` says which weights go."""
        return self.prune is not None and self.prune_score == "random"

    @property
    def group(self) -> int | str:
        """group_size, the usual one where none is given."""
        if self.codebook is not None:
            usual: int | str = usual_group_size(self.codebook)
        elif self.clusters is not None:
            usual = "tensor"
        else:
            usual = "channel" if self.bits == 8 else DEFAULT_GROUP
        only_looked_for = self.group_size == "tensor" and self.bits is not None  # among grids, see `recognize`
        return usual if self.group_size is None or only_looked_for else self.group_size

    @property
    def scale_rule(self) -> str | float:
        """scale, the usual rule where none is given."""
        if self.scale is not None:
            return self.scale
        least_squares = self.symmetric and self.bits is not None and self.bits < 8 and self.rounding == "even"
        return "mse" if least_squares else "absmax"

    @property
    def rounds(self) -> bool:
        """Whether weights become codes."""
        return self.bits is not None or self.codebook is not None or self.clusters is not None

    @property
    def pattern(self) -> tuple[int, int] | None:
        """(n, m) where prune is "n:m"."""
        return _n_of_m(self.prune) if isinstance(self.prune, str) else None

    @property
    def sparsity(self) -> float:
        """The fraction to prune; 0 without one."""
        return self.prune if isinstance(self.prune, float) else 0.0

    @property
    def shrinks(self) -> bool:
        return bool(self.shrink_l1 or self.shrink_l2)

    @property
    def changes(self) -> str:
        """What becomes of weights before they are rounded, for people; '' for nothing."""
        if self.threshold is not None:
            return f"{_THRESHOLDS[self.threshold_mode]} {self.threshold:g} pruned"
        if self.shrinks:
            by = "rows " if self.shrink_axis is not None else ""
            return f"{by}shrunk by l1 {self.shrink_l1:g}, l2 {self.shrink_l2:g}"
        if not self.prune:
            return ""
        part = self.prune if isinstance(self.prune, str) else f"{100 * self.sparsity:g}%"
        of = {None: "", "row": " of rows", "column": " of columns"}
        block = self.prune_pattern
        what = f" of {block[0]}x{block[1]} blocks" if isinstance(block, tuple) else of[block]
        if self.prune_axis is not None:
            what = " per row"
        by = "" if self.prune_score == "magnitude" else f" by {self.prune_score}"
        where = " of all such tensors" if self.prune_scope == "global" else ""
        return f"{part}{what}{where} pruned{by}"


class Options(TypedDict, total=False):
    """What `compress` and `plan` can be asked for, beside a whole recipe. What is not given, or None, is as by default;
    only bits=None has a meaning of its own."""

    bits: int | None
    group_size: int | str | None
    symmetric: bool | None
    scale: str | float | None
    scale_dtype: str | None
    rounding: str | None
    seed: int | None
    prune: float | str | None
    prune_axis: int | None
    prune_pattern: str | Block | None
    prune_score: str | None
    prune_data: str | os.PathLike[str] | None
    prune_scope: str | None
    threshold: float | None
    threshold_mode: str | None
    shrink_l1: float | None
    shrink_l2: float | None
    shrink_axis: int | None
    drop: str | Iterable[str] | None
    codebook: str | Iterable[float] | None
    clusters: int | None
    storage: str | None
    recognize: bool | None
    reader: str | None
    dtype: str | None
    simulate: bool | None
    strict: bool | None
    include: str | Iterable[str] | None
    exclude: str | Iterable[str] | None
    min_elements: int | None
    max_shard_size: int | str | None


_DEFAULTS = {f.name: f.default for f in fields(Settings)}
KEYS = tuple(f.name for f in fields(Settings))
OPTIONAL = (  # which may be None
    *("bits", "group_size", "prune", "prune_axis", "prune_pattern", "prune_data", "threshold", "shrink_axis"),
    *("codebook", "clusters", "scale", "scale_dtype", "reader"),
)
OF_CODES = ("group_size", "symmetric", "scale", "scale_dtype", "rounding", "seed")  # without meaning for bits=None


def _group_size(name: str, value: Any) -> int | str:
    if isinstance(value, str) and value not in ("channel", "tensor"):
        near = checks.nearest(value, ("channel", "tensor"))
        raise ValueError(f'{name} must be "channel", "tensor" or an integer of 1..{2**31 - 1}, not {value!r}{near}')
    return value if isinstance(value, str) else checks.integer(name, value, 1, 2**31 - 1)


def _scale(name: str, value: Any) -> str | float:
    if isinstance(value, str):
        return checks.choice(name, value, SCALE_RULES)
    return checks.number(name, value, 0.0, checks.LARGEST["float32"])


def _prune(name: str, value: Any) -> float | str:
    return ":".join(map(str, _n_of_m(value))) if isinstance(value, str) else checks.number(name, value, 0.0, 1.0)


def _prune_pattern(name: str, value: Any) -> str | Block:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return checks.integer(name, value[0], 1, 2**31 - 1), checks.integer(name, value[1], 1, 2**31 - 1)
    if not isinstance(value, str) or value not in ("row", "column"):
        near = checks.nearest(value, ("row", "column"))
        raise ValueError(f'{name} must be "row", "column" or (rows, cols), not {quote(value)}{near}')
    return value


def _path(name: str, value: Any) -> str:
    try:
        path = os.fspath(value)
    except TypeError:
        raise TypeError(f"{name} must be the path of a checkpoint, not {type(value).__name__}") from None
    if not isinstance(path, str) or not path:
        raise ValueError(f"{name} must be the path of a checkpoint, not {quote(path)}")
    return path


def _contradictions(s: Settings) -> Iterator[tuple[str, str]]:
    """Keys that mean nothing beside the others, and why."""
    asked = (("threshold", s.threshold is not None), ("shrink_l1, shrink_l2", s.shrinks))
    ways = [key for key, given in asked if given]
    if ways and s.prune is not None:
        yield ways[0], f"with prune={s.prune!r}"
    if len(ways) > 1:
        yield ways[0], f"with {ways[1]}"
    if s.threshold is not None and s.threshold < 0 and s.threshold_mode != "signed":
        yield f"a negative threshold ({s.threshold:g})", f"with threshold_mode={s.threshold_mode!r}"
    if s.prune_axis is not None and isinstance(s.prune, str):
        yield "prune_axis", f"with prune={s.prune!r}, which runs along rows"
    for key in ("prune_pattern", "prune_scope"):
        value = getattr(s, key)
        if value not in (None, "tensor") and s.prune is not None:
            if isinstance(s.prune, str):
                yield f"{key}={value!r}", f"with prune={s.prune!r}, but with a fraction"
            if s.prune_axis is not None:
                yield f"{key}={value!r}", f"with prune_axis={s.prune_axis}"
    if s.prune is None:
        return
    if s.prune_score in NORMS and s.prune_pattern is None:
        yield f"prune_score={s.prune_score!r}", 'without prune_pattern: "row", "column" or (rows, cols)'
    if s.prune_data is None and s.prune_score in DATA_SCORES:
        yield f"prune_score={s.prune_score!r}", "without prune_data, a checkpoint that has what it needs"


def meaningless(s: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Keys that mean nothing beside the others, and why: rules may inherit them, but nobody asks for them alone."""
    if not s.rounds:
        of_codes = tuple(key for key in OF_CODES if not (s.by_chance and key == "seed"))
        yield of_codes, "with bits=None, which writes no codes"
    if s.prune is None:
        yield ("prune_axis", "prune_pattern", "prune_score", "prune_data", "prune_scope"), "without prune"
    if s.prune_score not in DATA_SCORES:
        yield ("prune_data",), f"with prune_score={s.prune_score!r}, which needs none"
    if s.threshold is None:
        yield ("threshold_mode",), "without threshold"
    if not s.shrinks:
        yield ("shrink_axis",), "without shrink_l1 or shrink_l2"


def _n_of_m(value: str) -> tuple[int, int]:
    nm = checks.n_of_m(value)
    if nm is None:
        wanted = f'a fraction of 0..1 or "n:m" with 1 <= n < m <= {checks.MAX_M}'
        raise ValueError(f"prune must be {wanted}, not {quote(value)}")
    return nm


# key -> what makes its value a checked one, given (key, value)
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "keep": checks.flag,
    "bits": lambda name, value: checks.integer(name, value, 2, 8),
    "group_size": _group_size,
    "symmetric": checks.flag,
    "scale": _scale,
    "scale_dtype": lambda name, value: checks.choice(name, value, SCALE_DTYPES),
    "rounding": lambda name, value: checks.choice(name, value, ROUNDINGS),
    "seed": lambda name, value: checks.integer(name, value, 0, 2**64 - 1),
    "prune": _prune,
    "prune_axis": lambda name, value: checks.integer(name, value, 1, 1),
    "prune_pattern": _prune_pattern,
    "prune_score": lambda name, value: checks.choice(name, value, SCORES),
    "prune_data": _path,
    "prune_scope": lambda name, value: checks.choice(name, value, SCOPES),
    "threshold": lambda name, value: checks.number(name, value, -checks.LARGEST["float32"], checks.LARGEST["float32"]),
    "threshold_mode": lambda name, value: checks.choice(name, value, MODES),
    "shrink_l1": lambda name, value: checks.number(name, value, 0.0, checks.LARGEST["float32"]),
    "shrink_l2": lambda name, value: checks.number(name, value, 0.0, checks.LARGEST["float32"]),
    "shrink_axis": lambda name, value: checks.integer(name, value, 1, 1),
    "drop": checks.flag,
    "codebook": check_codebook,
    "storage": lambda name, value: checks.choice(name, value, STORAGES),
    "recognize": checks.flag,
    "clusters": lambda name, value: checks.integer(name, value, 2, 256),
    "reader": lambda name, value: checks.choice(name, value, READERS),
}
