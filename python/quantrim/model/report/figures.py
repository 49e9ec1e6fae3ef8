"""The figures of a compression: of each tensor, of each step, of all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ...files.disk.errors import quote

STEPS_HEAD = ("what each step saved", "bytes", "of the original")


@dataclass(frozen=True)
class TensorReport:
    """One tensor. Errors are those of the decoded weights, in the dtype that readers get, against the original ones,
    before pruning; None where the tensor was copied. snr_db is infinity where nothing was lost, None where the tensor
    is all zeros, like cosine. bits: of a code; None where the tensor stays floats, copied, pruned, or
    narrowed: brought to a dtype of fewer bits and no more."""

    name: str
    shape: tuple[int, ...]
    source_bytes: int
    stored_bytes: int
    label: str
    reason: str
    bits: int | None = None
    sparsity: float | None = None
    snr_db: float | None = None
    cosine: float | None = None
    worst: float | None = None
    narrowed: bool = False

    def cells(self) -> tuple[str, ...]:
        shape = " × ".join(map(str, self.shape)) or "scalar"
        numbers = (f"{self.source_bytes:,}", f"{self.stored_bytes:,}", self.label)
        return (quote(self.name)[1:-1], shape, *numbers, *_error_cells(self))


@dataclass(frozen=True)
class Steps:
    """Bytes of all tensors, headers aside: as they were; only pruned, and stored sparse where that is smaller;
    only quantized, nothing left out; and as they were written."""

    original: int
    pruned: int
    quantized: int
    both: int

    def sizes(self) -> dict[str, int]:
        """List what was done, and the bytes."""
        return {
            "as it was": self.original,
            "pruned alone, stored sparse": self.pruned,
            "quantized alone": self.quantized,
            "pruned and quantized": self.both,
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """List what was done, the bytes, and the share of the original."""
        return [(what, f"{n:,}", f"{100 * n / max(1, self.original):.1f}%") for what, n in self.sizes().items()]


@dataclass(frozen=True)
class Figures:
    """source_bytes, stored_bytes: the files of weights. seconds: of wall clock, the final flush to the disk
    included. snr_db, sparsity: of all weights that were compressed or pruned together, None without signal.
    steps: what each step saved, where tensors were both pruned and quantized. recipe: what was asked for; settings:
    the same with all that was left to defaults. versions: of what computed. peak_memory: bytes that the process has had
    at most."""

    source: str
    destination: str
    recipe: dict[str, Any]
    tensors: tuple[TensorReport, ...]
    source_bytes: int
    stored_bytes: int
    seconds: float
    threads: int
    notes: tuple[str, ...]
    snr_db: float | None = None
    sparsity: float = 0.0
    steps: Steps | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    peak_memory: int | None = None

    @property
    def ratio(self) -> float:
        """source_bytes / stored_bytes."""
        return self.source_bytes / self.stored_bytes

    @property
    def gb_per_s(self) -> float:
        """Source bytes a second, in 10**9."""
        return self.source_bytes / self.seconds / 1e9 if self.seconds else math.inf

    def summary(self) -> str:
        """Say in one sentence what was done."""
        return (
            f"{self.source_bytes:,} bytes became {self.stored_bytes:,} ({self.ratio:.2f} times smaller) "
            f"in {self.seconds:.2f} s ({self.gb_per_s:.2f} GB/s, {self.threads} threads)"
        )


def _error_cells(t: TensorReport) -> tuple[str, str, str, str]:
    if t.sparsity is None:
        return ("", "", "", "")
    snr = "" if t.snr_db is None else "exact" if math.isinf(t.snr_db) else f"{t.snr_db:.2f}"
    return (f"{100 * t.sparsity:.1f}%", snr, "" if t.cosine is None else f"{t.cosine:.6f}", f"{t.worst:.3g}")
