"""Whole models: what to do with each tensor, doing it, and what it cost."""

from .compress import compress, plan
from .decompress import DecodedTensor, Decompressed, decompress
from .edit.lossless import Restored, compress_lossless, restore
from .edit.split import merge_checkpoint, split_checkpoint
from .plan.types import Plan, TensorPlan
from .recipe import Recipe, Rule, Settings, UnitRemoval
from .report.figures import TensorReport
from .report.report import Report
from .streaming.tensors import LogicalTensor, Model, logical_tensors, open_checkpoint
from .tune import Tuned, tune

__all__ = [
    "DecodedTensor",
    "Decompressed",
    "LogicalTensor",
    "Model",
    "Plan",
    "Recipe",
    "Report",
    "Restored",
    "Rule",
    "Settings",
    "TensorPlan",
    "TensorReport",
    "Tuned",
    "UnitRemoval",
    "compress",
    "compress_lossless",
    "decompress",
    "logical_tensors",
    "merge_checkpoint",
    "open_checkpoint",
    "plan",
    "restore",
    "split_checkpoint",
    "tune",
]
