"""Settings of one tensor, in small types: what cannot be meant together cannot be said together."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

from ...blocks import Block
from ...words import (
    MX_CODEBOOKS,
    CodebookName,
    DataScore,
    Float,
    Norm,
    Reader,
    Rounding,
    ScaleRule,
    Storage,
    ThresholdMode,
    WeightScore,
)

# By bench/quality.py: int4 in groups of 32 by least squares keeps a mean cosine of 0.975 of MiniLM's embeddings, in
# groups of 128 by absmax 0.941, for 9 % fewer bytes of codes; 8 bits lose next to nothing either way.
DEFAULT_GROUP = 32
CODEBOOK_GROUP, MX_GROUP = 64, 32

GroupSize = int | Literal["channel", "tensor"]


# What is pruned


@dataclass(frozen=True)
class ScoredBy:
    """Scores computed from the arrays that the checkpoint `path` has under the names of the weights."""

    name: DataScore
    path: str


@dataclass(frozen=True)
class Threshold:
    """Prune weights by `quantrim.threshold`."""

    limit: float
    mode: ThresholdMode = "magnitude"

    def __str__(self) -> str:
        below = {"magnitude": "|w| below", "signed": "w up to", "soft": "|w| softly below"}
        return f"{below[self.mode]} {self.limit:g} pruned"


@dataclass(frozen=True)
class Shrink:
    """Shrink weights by `quantrim.shrink`, over the tensor or each row."""

    l1: float
    l2: float
    by_row: bool = False

    def __str__(self) -> str:
        return f"{'rows ' if self.by_row else ''}shrunk by l1 {self.l1:g}, l2 {self.l2:g}"


@dataclass(frozen=True)
class NofM:
    """Keep n of each m neighbours in a row."""

    n: int
    m: int
    score: WeightScore | ScoredBy = "magnitude"

    @property
    def pattern(self) -> str:
        return f"{self.n}:{self.m}"

    def __str__(self) -> str:
        return f"{self.pattern} pruned{_by(self.score)}"


@dataclass(frozen=True)
class Fraction:
    """Prune a share of the weights that are compared with each other: those of a row, of the tensor, or of all tensors
    with the same budget."""

    sparsity: float
    among: Literal["row", "tensor", "global"] = "tensor"
    score: WeightScore | ScoredBy = "magnitude"

    def __str__(self) -> str:
        among = {"row": " per row", "tensor": "", "global": " of all such tensors"}[self.among]
        return f"{100 * self.sparsity:g}%{among} pruned{_by(self.score)}" if self.sparsity else ""


@dataclass(frozen=True)
class Blocks:
    """Prune a share of the rows, columns or blocks of a tensor, or of all tensors with the same budget."""

    sparsity: float
    block: Literal["row", "column"] | Block
    among: Literal["tensor", "global"] = "tensor"
    score: WeightScore | Norm | ScoredBy = "magnitude"

    def __str__(self) -> str:
        what = f"{self.block}s" if isinstance(self.block, str) else f"{self.block[0]}x{self.block[1]} blocks"
        among = " of all such tensors" if self.among == "global" else ""
        return f"{100 * self.sparsity:g}% of {what}{among} pruned{_by(self.score)}" if self.sparsity else ""


def _by(score: str | ScoredBy) -> str:
    name = score if isinstance(score, str) else score.name
    return "" if name == "magnitude" else f" by {name}"


Scored = NofM | Fraction | Blocks  # prune by a score
Prune = Threshold | Shrink | Scored


# What codes are made


@dataclass(frozen=True)
class UniformGrid:
    """Integer codes, as in `quantrim.quantize`. group_size None: "channel" at 8 bits, 32 below; "tensor" is only
    searched by `recognize`. scale None: "mse" for symmetric codes of less than 8 bits that are rounded to nearest, else
    "absmax". scale_dtype None: what readers compute in."""

    bits: int = 4
    group_size: GroupSize | None = None
    symmetric: bool = True
    scale: ScaleRule | float | None = None
    scale_dtype: Float | None = None
    rounding: Rounding = "even"
    storage: Storage = "auto"

    @property
    def group(self) -> GroupSize:
        if self.group_size in (None, "tensor"):
            return "channel" if self.bits == 8 else DEFAULT_GROUP
        return self.group_size

    @property
    def scale_rule(self) -> ScaleRule | float:
        if self.scale is not None:
            return self.scale
        return "mse" if self.symmetric and self.bits < 8 and self.rounding == "even" else "absmax"


@dataclass(frozen=True)
class Codebook:
    """Codes of a table, as in `quantrim.quantize_codebook`: one of its names or ascending values."""

    values: CodebookName | tuple[float, ...]
    group_size: GroupSize | None = None
    scale_dtype: Float | None = None

    @property
    def group(self) -> GroupSize:
        return self.group_size or (MX_GROUP if self.values in MX_CODEBOOKS else CODEBOOK_GROUP)


@dataclass(frozen=True)
class Clusters:
    """Values that the weights of a group share, as in `quantrim.cluster`."""

    count: int
    group_size: GroupSize | None = None

    @property
    def group(self) -> GroupSize:
        return self.group_size or "tensor"


@dataclass(frozen=True)
class Floats:
    """No codes: weights keep their dtype."""

    storage: Storage = "auto"


Codes = UniformGrid | Codebook | Clusters | Floats


@dataclass(frozen=True)
class Settings:
    """The settings of one tensor: it is kept as it is or dropped, or pruned and then coded.

    recognize: what is already quantized, or has at most 256 values, is packed without any change, whatever the other
    settings say (float64 excepted). reader: who must open the result; None is transformers and vLLM both for a model
    folder whose config.json they know by, else "any". seed: of random scores and of stochastic rounding.

    `settings_of` makes them of options, and says what is wrong with these. The properties below are for those who need
    one fact, whatever the types: they give None (or "", 0, False) where a type has no such thing. They are cached, as
    planning asks for them once and again for each of many tensors.
    """

    prune: Prune | None = None
    codes: Codes = UniformGrid()
    recognize: bool = False
    reader: Reader | None = None
    seed: int = 0
    action: Literal["compress", "keep", "drop"] = "compress"

    def with_codes(self, **changes: object) -> Settings:
        """Return the settings with other values of their codes, where these have them: a codebook has no `storage`."""
        known = {f.name for f in fields(self.codes)}
        return replace(self, codes=replace(self.codes, **{k: v for k, v in changes.items() if k in known}))  # type: ignore[arg-type]

    @cached_property
    def keep(self) -> bool:
        return self.action == "keep"

    @cached_property
    def drop(self) -> bool:
        return self.action == "drop"

    @cached_property
    def rounds(self) -> bool:
        """Whether weights become codes."""
        return not isinstance(self.codes, Floats)

    @cached_property
    def bits(self) -> int | None:
        """Bits of a uniform grid."""
        return self.codes.bits if isinstance(self.codes, UniformGrid) else None

    @cached_property
    def codebook(self) -> str | tuple[float, ...] | None:
        return self.codes.values if isinstance(self.codes, Codebook) else None

    @cached_property
    def clusters(self) -> int | None:
        return self.codes.count if isinstance(self.codes, Clusters) else None

    @cached_property
    def group_size(self) -> GroupSize | None:
        """The group size as it was asked for."""
        return None if isinstance(self.codes, Floats) else self.codes.group_size

    @cached_property
    def group(self) -> GroupSize:
        """group_size, the usual one where none is asked for."""
        return DEFAULT_GROUP if isinstance(self.codes, Floats) else self.codes.group

    @cached_property
    def symmetric(self) -> bool:
        return not isinstance(self.codes, UniformGrid) or self.codes.symmetric

    @cached_property
    def scale_dtype(self) -> Float | None:
        return self.codes.scale_dtype if isinstance(self.codes, (UniformGrid, Codebook)) else None

    @cached_property
    def scale_rule(self) -> ScaleRule | float:
        return self.codes.scale_rule if isinstance(self.codes, UniformGrid) else "absmax"

    @cached_property
    def rounding(self) -> Rounding:
        return self.codes.rounding if isinstance(self.codes, UniformGrid) else "even"

    @cached_property
    def storage(self) -> Storage:
        return self.codes.storage if isinstance(self.codes, (UniformGrid, Floats)) else "dense"

    @cached_property
    def prunes_nothing(self) -> bool:
        """Whether pruning by a score is asked for, of no weight."""
        return isinstance(self.prune, (Fraction, Blocks)) and not self.prune.sparsity

    @cached_property
    def sparsity(self) -> float:
        """The fraction of weights or blocks to prune; 0 without one, and for n:m."""
        return self.prune.sparsity if isinstance(self.prune, (Fraction, Blocks)) else 0.0

    @cached_property
    def pattern(self) -> tuple[int, int] | None:
        """(n, m) of n:m."""
        return (self.prune.n, self.prune.m) if isinstance(self.prune, NofM) else None

    @cached_property
    def prune_pattern(self) -> str | Block | None:
        """The blocks that go."""
        return self.prune.block if isinstance(self.prune, Blocks) else None

    @cached_property
    def changes(self) -> str:
        """The pruning of weights before they are rounded, in words; '' for none."""
        return "" if self.prune is None else str(self.prune)
