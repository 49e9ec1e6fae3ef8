"""Judges of accuracy, and one row of the table: compress, decode, measure, and ask transformers as well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from quality_metrics import Array, largest_difference
from quality_settings import COMMAND, Setting

from quantrim import dequantize
from quantrim.files import open_checkpoint
from quantrim.model import Report, compress, logical_tensors

ORIGINAL = "as it was"
TOLERANCE = 1e-4  # of the largest number: the reader adds float32 in another order, but multiplies the same weights
BFLOAT16_TOLERANCE = 0.05  # bitsandbytes multiplies in bfloat16 for such weights, and on processors that can for all

Weights = Mapping[str, Array]
Outputs = dict[str, Array]  # what a model says; the same keys for every setting


@dataclass(frozen=True)
class Column:
    """A figure of a judge in the table. text: how it is written, for str.format."""

    key: str
    title: str
    text: str


class Judge(Protocol):
    """A model and a task. loss: of figures, what the plot shows upwards; less is better, and beyond the limit all are
    equally useless."""

    name: str
    title: str
    about: str
    columns: tuple[Column, ...]
    loss_title: str
    loss_limit: float

    @property
    def folder(self) -> Path:
        """The model as it was."""

    def outputs(self, weights: Weights | None) -> Outputs:
        """Compute what the float model says with these weights in place of its own; None: with its own."""

    def reader_outputs(self, folder: Path) -> Outputs:
        """Compute the first rows of the same, from the folder as transformers opens it, or raise what it raises."""

    def figures(self, outputs: Outputs, original: Outputs) -> dict[str, float]:
        """Compute the figures, by keys of `columns`."""

    def loss(self, figures: dict[str, float], original: dict[str, float]) -> float: ...


@dataclass(frozen=True)
class Row:
    """nbytes: of the files of weights. snr_db: of what was rounded or pruned. seconds: of compress. loss: as the judge
    defines it. everything: whether embeddings were rounded as well. reader: the largest difference of what transformers
    makes of the folder, None where it does not open; reason: why not."""

    model: str
    label: str
    options: dict[str, Any]
    nbytes: int
    ratio: float
    snr_db: float | None
    seconds: float
    figures: dict[str, float]
    loss: float
    everything: bool = False
    reader: float | None = None
    reason: str = ""
    notes: tuple[str, ...] = field(default=())
    tolerance: float = TOLERANCE  # of `reader`

    @property
    def command(self) -> bool:
        """Whether it is what people type: the same as another row, or between others, but not to compete with them."""
        return self.label.startswith(COMMAND)

    @property
    def misread(self) -> bool:
        """Whether transformers opens the folder and computes something else."""
        return self.reader is not None and self.reader > self.tolerance

    def reader_text(self) -> str:
        if self.label == ORIGINAL:
            return "-"
        if self.reader is None:
            return "no"
        if self.misread:
            return f"DIFFERS by {self.reader:.1e}"
        return f"yes, {self.reader:.0e}" if self.reader else "yes, equal"


@dataclass(frozen=True)
class Baseline:
    """The judge's model before anything was done to it."""

    outputs: Outputs
    row: Row


def baseline(judge: Judge) -> Baseline:
    outputs = judge.outputs(None)
    figures = judge.figures(outputs, outputs)
    nbytes = sum(path.stat().st_size for path in judge.folder.glob("*.safetensors"))
    return Baseline(
        outputs, Row(judge.name, ORIGINAL, {}, nbytes, 1.0, None, 0.0, figures, judge.loss(figures, figures))
    )


def evaluate(judge: Judge, setting: Setting, base: Baseline, scratch: Path, reader: bool = True) -> Row:
    """Measure one row. The written folder is gone afterwards."""
    target = scratch / "out"
    try:
        report = compress(judge.folder, target, overwrite=True, **setting.options)
        outputs = judge.outputs(decoded(target))
        figures = judge.figures(outputs, base.outputs)
        difference, reason = read_again(judge, target, outputs) if reader else (None, "not asked")
        tolerance = BFLOAT16_TOLERANCE if _said(target).get("quant_method") == "bitsandbytes" else TOLERANCE
    finally:
        shutil.rmtree(target, ignore_errors=True)
    return Row(
        judge.name, setting.label, setting.options, report.stored_bytes, report.ratio, report.snr_db, report.seconds,
        figures, judge.loss(figures, base.row.figures), embeddings_rounded(report), difference, reason, report.notes,
        tolerance,
    )  # fmt: skip


def embeddings_rounded(report: Report) -> bool:
    """Tell whether embeddings were rounded, which a label does not say where a reader decides."""
    return any(tensor.bits is not None and "embed" in tensor.name for tensor in report.tensors)


def decoded(folder: Path) -> dict[str, Array]:
    """Decode all weights of a folder, float32, in their shapes; integers, which are no weights, are left out.

    They are what readers multiply with in a float32 model: codes times scales in float32, but in the scales' dtype
    where the config says that floats are to be made of all codes as the model is opened."""
    narrow = _said(folder).get("dequantize", False)
    found: dict[str, Array] = {}
    with open_checkpoint(folder) as checkpoint:
        for name, tensor in logical_tensors(checkpoint).items():
            if not np.issubdtype(tensor.dtype, np.integer):
                count = tensor.matrix_shape[0]
                wide = tensor.layout.has_codes and not narrow
                rows = dequantize(tensor.quantized_rows(0, count)) if wide else tensor.rows(0, count)
                found[name] = rows.astype(np.float32, copy=False).reshape(tensor.shape)
    return found


def _said(folder: Path) -> dict[str, Any]:
    """Return what config.json says of how weights are stored."""
    config = folder / "config.json"
    found: dict[str, Any] = json.loads(config.read_text()).get("quantization_config", {}) if config.is_file() else {}
    return found


def read_again(judge: Judge, folder: Path, outputs: Outputs) -> tuple[float | None, str]:
    """Measure how far transformers is from our decoded weights, or say why it does not open the folder."""
    try:
        found = judge.reader_outputs(folder)
    except Exception as error:  # of other people's code: whatever it is, the folder does not open plainly
        lines = str(error).strip().splitlines() or [""]
        return None, f"{type(error).__name__}: {lines[0][:200]}"
    return max(largest_difference(begin, outputs[key]) for key, begin in found.items()), ""
