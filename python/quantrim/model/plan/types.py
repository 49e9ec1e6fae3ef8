"""The types of a plan: of each tensor, each file, and all. Only data; the planners import it, it imports none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from ...checks import Array
from ...files import TensorInfo, Writer
from ...files.disk.errors import quote
from ...files.tensor_info import count_bytes
from ...layouts.base import WEIGHT, StoredTensor, WritableLayout, full_name, stored_in
from ..recipe import Recipe
from ..recipe.settings import Settings

T = TypeVar("T")
PRUNED_DTYPES = ("F32", "F16", "BF16")  # F64 is computed in float32, which would not keep what stays
_SHAPES = 1024  # that are remembered: of a hundred thousand tensors most are of few
ALONE = ", but then other readers may not open the result"


@dataclass(frozen=True)
class Reason:
    """The reason why tensors stay. key: one for each kind of reason; text: for people, of one tensor or several;
    advice: what would shrink them, '' for nothing."""

    key: str
    text: str
    advice: str = ""

    def said(self, simulated: bool) -> str:
        """Return the text with the advice, for a result of floats that any program opens or for one of codes."""
        advice = self.advice.replace(ALONE, "") if simulated else self.advice
        return f"{self.text} ({advice})" if advice else self.text


@lru_cache(_SHAPES)
def layout_bytes(layout: WritableLayout, shape: tuple[int, ...]) -> int:
    """Return the bytes of all arrays of a tensor together, without their names in the header."""
    return sum(count_bytes(each.dtype, each.shape) for each in stored_in(layout, shape).values())


class TensorPlan(NamedTuple):
    """One tensor: where it comes from, in which layout it is written (`label`, for people), and why so.

    codes: the dense layout whose codes its weights are rounded to; None where they stay floats. copied: byte for byte,
    not even pruned. counts: what each chunk keeps, as a first pass over the source found, where the layout needs that.
    scanned: whether it is known if the weights are already quantized, where the settings ask for it. exact: whether
    they are, and codes change none of them. kept: why it is not rounded though others are.
    """

    info: TensorInfo
    settings: Settings
    layout: WritableLayout
    label: str
    reason: str
    codes: WritableLayout | None = None
    copied: bool = False
    counts: tuple[int, ...] | None = None
    scanned: bool = False
    exact: bool = False
    kept: Reason | None = None

    @property
    def simulated(self) -> bool:
        """Whether decoded weights are written, in place of the codes."""
        return self.codes is not None and self.layout.bits is None

    @property
    def runtime_layout(self) -> WritableLayout | None:
        """The layout, or what it would be were it not simulated, if transformers and vLLM open it; else None."""
        layout = self.codes if self.simulated else self.layout
        return layout if layout is not None and "vLLM" in layout.readers else None

    @property
    def narrowed(self) -> str | None:
        """The dtype of fewer bits that floats are written in; None where they keep theirs."""
        floats = self.layout.bits is None and not self.layout.counted
        return self.layout.decoded_dtype if floats and self.layout.decoded_dtype != self.info.dtype else None

    @property
    def bits(self) -> int | None:
        """Bits of a code; None where weights keep their dtype."""
        return None if self.codes is None else self.codes.bits

    @property
    def to_scan(self) -> bool:
        """Whether its layout depends on weights that nobody has seen."""
        return self.settings.recognize and not self.copied and not self.scanned and self.info.dtype in PRUNED_DTYPES

    @property
    def at_most(self) -> bool:
        """Whether `stored_bytes` is a limit: how many weights are kept is not known yet."""
        return self.layout.counted and self.counts is None

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def module(self) -> str:
        return self.name.removesuffix(WEIGHT)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape

    @property
    def source_bytes(self) -> int:
        return self.info.nbytes

    @property
    def stored_bytes(self) -> int:
        """All arrays together, without their names in the header."""
        return layout_bytes(self.layout, self.shape)

    def arrays(self) -> dict[str, StoredTensor]:
        """Return the arrays by role, under the names that they have in the file."""
        tensor, found = self.info.name, stored_in(self.layout, self.info.shape)
        return {role: StoredTensor(full_name(tensor, a.name), a.dtype, a.shape) for role, a in found.items()}


@dataclass(frozen=True)
class OutputFile(Generic[T]):
    """One file of the output: its name in a folder, what is planned for each of its tensors, and its writer."""

    name: str
    tensors: tuple[T, ...]
    writer: Writer = field(repr=False, compare=False)

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return self.writer.size


@dataclass(frozen=True)
class Replaced:
    """Replacements of what the source has: arrays by tensor, why, and the numbers of config.json that
    follow from it."""

    arrays: dict[str, Array]
    reasons: dict[str, str]
    config: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """The plan of `compress`. source_bytes, stored_bytes: the files of weights, headers and all.

    config: the `quantization_config`; empty where nothing is quantized. resized: numbers of config.json that change.
    replaced: what tensors are, before anything else happens to them, in place of what the source has. target: where it
    is written, if that is known; its suffix says the format.
    """

    source: str
    recipe: Recipe
    shards: tuple[OutputFile[TensorPlan], ...]
    config: dict[str, Any]
    source_bytes: int
    notes: tuple[str, ...]
    resized: dict[str, int]
    replaced: Mapping[str, Array] = field(default_factory=dict, repr=False, compare=False)
    target: Path | None = None

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        return tuple(tensor for shard in self.shards for tensor in shard.tensors)

    @property
    def stored_bytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    @property
    def at_most(self) -> bool:
        """Whether `stored_bytes` is a limit: only a scan of the weights says how many are kept."""
        return any(tensor.at_most for tensor in self.tensors)

    @property
    def ratio(self) -> float:
        """source_bytes / stored_bytes."""
        return self.source_bytes / self.stored_bytes

    def lines(self) -> list[str]:
        """Return one line for each tensor, the totals, the notes: what --dry-run prints."""
        rows = [
            (quote(t.name), str(list(t.shape)), t.info.dtype, t.label, f"{t.stored_bytes:,}", t.reason)
            for t in self.tensors
        ]
        widths = [max((len(row[k]) for row in rows), default=0) for k in range(5)]
        table = [
            "  ".join([*(f"{row[k]:<{widths[k]}}" for k in range(4)), f"{row[4]:>{widths[4]}}", row[5]]).rstrip()
            for row in rows
        ]
        most = "at most " if self.at_most else ""
        total = f"{self.source_bytes:,} bytes become {most}{self.stored_bytes:,}: {self.ratio:.2f} times smaller"
        return [*table, total, *self.notes]
