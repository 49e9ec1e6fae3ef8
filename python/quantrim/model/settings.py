"""What can be asked for of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import ml_dtypes  # noqa: F401 (numpy knows bfloat16 by it)
import numpy as np

from .. import checks
from ..codebooks import MX_GROUP_SIZE, check_codebook
from ..files.errors import quote
from ..quantization import ROUNDINGS, SCALE_DTYPES, SCALE_RULES
from .methods import MX, NOT_WITH, usual_group_size

DEFAULT_GROUP = 128
STORAGES = ("auto", "dense", "sparse")


@dataclass(frozen=True)
class Settings:
    """What happens to one tensor. `keep` copies it untouched; everything else is as in `quantize` and
    `prune`.

    bits: None leaves weights in their dtype, to be pruned and no more; then all below but prune and prune_axis mean
    nothing. group_size: an integer, "channel", or None for the usual: "channel" at 8 bits, 128 below. prune: a
    fraction of 0..1, "n:m", or None. prune_axis: 1 compares the weights of each row among themselves, None
    those of the whole tensor. codebook: instead of bits, what `quantize_codebook` takes: a name or 2..256 ascending
    values. clusters: instead of both, 2..256 values that the weights share, as in `cluster`. With these group_size may
    be "tensor" as well, usual for clusters; that of codebooks is 64, or 32 for MX. storage: "sparse" leaves zeros out,
    "dense" does not, "auto" does where that saves a quarter of the bytes of codes that a fraction was pruned of.
    scale: also a number, the scale of all groups: fixed point. recognize: what lies on a grid, or has at most 256
    values, is packed without any change, whatever the other settings say; group_size None tries several.
    """

    keep: bool = False
    bits: int | None = 4
    group_size: int | str | None = None
    symmetric: bool = True
    scale: str | float = "absmax"
    scale_dtype: str = "float16"
    rounding: str = "even"
    seed: int = 0
    prune: float | str | None = None
    prune_axis: int | None = None
    codebook: str | tuple[float, ...] | None = None
    clusters: int | None = None
    storage: str = "auto"
    recognize: bool = False

    def __post_init__(self) -> None:
        for name in KEYS:
            value = getattr(self, name)
            if value is not None or name not in OPTIONAL:
                object.__setattr__(self, name, _CHECKS[name](name, value))
        if self.prune_axis is not None and isinstance(self.prune, str):
            raise ValueError(f"prune_axis must not be given with prune={self.prune!r}, which runs along rows")
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
                stored = float(np.float32(self.scale).astype(np.dtype(self.scale_dtype)))
            if not 0 < stored < np.inf:
                raise ValueError(f"scale must be positive and finite in {self.scale_dtype}, not {self.scale}")

    @property
    def without_meaning(self) -> tuple[str, ...]:
        """Keys that say nothing beside the others, and are as by default; bits is None beside codebook and clusters."""
        method = next((key for key in NOT_WITH if getattr(self, key) is not None), None)
        return () if method is None else ("bits", *NOT_WITH[method])

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
    codebook: str | Iterable[float] | None
    clusters: int | None
    storage: str | None
    recognize: bool | None
    include: str | Iterable[str] | None
    exclude: str | Iterable[str] | None
    min_elements: int | None


_DEFAULTS = {f.name: f.default for f in fields(Settings)}
KEYS = tuple(f.name for f in fields(Settings))
OPTIONAL = ("bits", "group_size", "prune", "prune_axis", "codebook", "clusters")  # which may be None
OF_CODES = ("group_size", "symmetric", "scale", "scale_dtype", "rounding", "seed")  # without meaning for bits=None


def _group_size(name: str, value: Any) -> int | str:
    if isinstance(value, str) and value not in ("channel", "tensor"):
        raise ValueError(f'{name} must be "channel", "tensor" or an integer of 1..{2**31 - 1}, not {value!r}')
    return value if isinstance(value, str) else checks.integer(name, value, 1, 2**31 - 1)


def _scale(name: str, value: Any) -> str | float:
    if isinstance(value, str):
        return checks.choice(name, value, SCALE_RULES)
    return checks.number(name, value, 0.0, checks.LARGEST["float32"])


def _prune(name: str, value: Any) -> float | str:
    return ":".join(map(str, _n_of_m(value))) if isinstance(value, str) else checks.number(name, value, 0.0, 1.0)


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
    "codebook": check_codebook,
    "storage": lambda name, value: checks.choice(name, value, STORAGES),
    "recognize": checks.flag,
    "clusters": lambda name, value: checks.integer(name, value, 2, 256),
}
