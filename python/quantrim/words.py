"""The words that arguments are chosen from: as types for editors, and as tuples for checks, help and completion.

Nothing of quantrim is imported here, so that help and completion wait for no kernels.
"""

from __future__ import annotations

from typing import Literal, get_args

Float = Literal["float32", "float16", "bfloat16"]
NarrowFloat = Literal["float16", "bfloat16"]  # that floats which stay may be narrowed to
FLOATS: tuple[Float, ...] = get_args(Float)
NARROW_FLOATS: tuple[NarrowFloat, ...] = get_args(NarrowFloat)

Rounding = Literal["even", "away", "floor", "stochastic"]
ScaleRule = Literal["absmax", "mse", "power_of_two"]
NonFinite = Literal["raise", "zero", "saturate"]
CodebookName = Literal["nf4", "fp4", "mxfp4", "mxint8", "binary", "ternary"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
SCALE_RULES: tuple[ScaleRule, ...] = get_args(ScaleRule)
SCALE_DTYPES = FLOATS
NONFINITE: tuple[NonFinite, ...] = get_args(NonFinite)
CODEBOOKS: tuple[CodebookName, ...] = get_args(CodebookName)
MX_CODEBOOKS = ("mxfp4", "mxint8")

ThresholdMode = Literal["magnitude", "signed", "soft"]
WeightScore = Literal["magnitude", "random"]
Norm = Literal["l1", "l2"]  # scores of rows, columns and blocks alone
DataScore = Literal["wanda", "taylor", "fisher", "obd", "given"]  # which need arrays beside the weights
Score = Literal[WeightScore, Norm, DataScore]
Scope = Literal["tensor", "global"]
THRESHOLD_MODES: tuple[ThresholdMode, ...] = get_args(ThresholdMode)
NORMS: tuple[str, ...] = get_args(Norm)
DATA_SCORES: tuple[str, ...] = get_args(DataScore)
SCORES: tuple[str, ...] = get_args(Score)
SCOPES: tuple[str, ...] = get_args(Scope)

Storage = Literal["auto", "dense", "sparse"]
Reader = Literal["transformers", "vllm", "bitsandbytes", "any"]
STORAGES: tuple[str, ...] = get_args(Storage)
READERS: tuple[str, ...] = get_args(Reader)
