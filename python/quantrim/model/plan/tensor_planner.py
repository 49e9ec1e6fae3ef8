"""The plan for one tensor: what is done to it, in which layout it will be, and why so."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ...files import TensorInfo
from ...files.disk.errors import quote
from ...layouts.base import WEIGHT, WritableLayout
from ...layouts.compressed_tensors import INT, CompressedTensors
from ...layouts.plain import Plain
from ...tensor import GroupSize
from ..prune.blocks import block_shape
from ..recipe import Recipe
from ..recipe.settings import Settings
from .choose_layout import code_layout, own_grid, sparse_layout
from .readers import BOTH, Readers
from .types import PRUNED_DTYPES, Reason, TensorPlan

FALLBACK_GROUPS = (128, 64, 32, 16)
VLLM_GROUPS = (128, 64, 32)  # that its kernels for packed weights have
MATRIX_DTYPES = ("F32", "F16", "BF16", "F64")
NARROWED = ("F64", "F32")  # what `dtype` makes smaller
NARROW = {"float16": "F16", "bfloat16": "BF16"}
_Likeness = tuple[int, str, tuple[int, ...], str, bool, bool]


class TensorPlanner:
    """The plans of single tensors of one checkpoint. infos, assigned: all that are kept, and their settings.

    Tensors that are alike in all but their names are planned once."""

    def __init__(self, infos: Iterable[TensorInfo], assigned: dict[str, Settings], recipe: Recipe, readers: Readers):
        self._assigned, self._recipe, self._readers = assigned, recipe, readers
        matrices = [info for info in infos if len(info.shape) == 2]
        experts = [info.shape[1] for info in matrices if readers.modules.kind(info.name) == "expert"]
        # transformers opens all experts by one scheme: a group must divide the columns of each
        self._expert_cols = math.gcd(*experts)
        self._one_group = self._group_of_all(matrices)
        self._planned: dict[_Likeness, TensorPlan] = {}

    def _group_of_all(self, matrices: Iterable[TensorInfo]) -> GroupSize | None:
        """Return the group size of all codes for transformers; None where they cannot be of one scheme.

        It decodes one scheme as it opens a model, and so opens more."""
        wishes, columns = set(), []
        for info in {self._likeness(info): info for info in matrices}.values():
            s = self._assigned[info.name]
            wanted = s.bits is not None and not s.recognize and self._readers.of(s) in (BOTH, "transformers")
            if wanted and self._why_kept(info, s, one_scheme=True) is None:
                wishes.add((s.bits, s.group, s.symmetric, s.scale_dtype or _usual_scale_dtype(info, s)))
                columns.append(info.shape[1])
        if len(wishes) != 1:
            return None
        _, group, *_ = wishes.pop()
        fitting = _dividing_group(group, math.gcd(*columns), VLLM_GROUPS)
        return fitting if isinstance(fitting, int) or fitting == group else None

    def plan(self, info: TensorInfo) -> TensorPlan:
        """Plan what will be done to a tensor. ValueError for settings that it cannot have."""
        likeness = self._likeness(info)
        if likeness not in self._planned:
            self._planned[likeness] = self._plan(info)
        return self._planned[likeness]._replace(info=info)

    def _likeness(self, info: TensorInfo) -> _Likeness:
        """Return what a plan depends on; of settings there is one object for each rule."""
        name = info.name
        kind = self._readers.modules.kind(name)
        return id(self._assigned[name]), info.dtype, info.shape, kind, name.endswith(WEIGHT), name == WEIGHT

    def _plan(self, info: TensorInfo) -> TensorPlan:
        settings = self._assigned[info.name]
        reader = self._readers.of(settings)
        if reader != "any" and settings.storage == "auto":
            settings = settings.with_codes(storage="dense")  # sparse storage is for quantrim alone
        reason = self._why_kept(info, settings, one_scheme=self._one_group is not None)
        if reason is not None:
            return self._kept(info, settings, reason)
        settings = settings.with_codes(scale_dtype=settings.scale_dtype or _usual_scale_dtype(info, settings))
        planned = self._rounded(info, settings) if settings.rounds else self._pruned(info, settings)
        if not self._recipe.simulate or planned.bits is None:
            return planned
        label = f"{info.dtype}, simulated {planned.label}"
        return planned._replace(layout=Plain(self._narrower(info) or info.dtype), label=label)

    def _why_kept(self, info: TensorInfo, settings: Settings, one_scheme: bool) -> Reason | None:
        """Say why a tensor is neither rounded nor pruned; None where it is. one_scheme: whether all codes have one."""
        if settings.keep:
            return Reason("keep", "kept by the recipe")
        if not (settings.rounds or settings.changes or settings.storage == "sparse" or settings.recognize):
            return Reason("nothing", "nothing to do: neither bits nor prune, threshold or shrink")
        what = "compressed" if settings.rounds else "pruned"
        dtypes = MATRIX_DTYPES if settings.rounds else PRUNED_DTYPES
        if len(info.shape) < 2:
            dims = f"{len(info.shape)} dimension{'s' * (len(info.shape) != 1)}"
            return Reason("dimensions", f"{dims}: only weights of two and more are {what}")
        if info.dtype not in dtypes:
            return Reason("dtype", f"{info.dtype}: only {', '.join(dtypes)} are {what}")
        if not info.size:
            return Reason("empty", "empty")
        least = self._recipe.min_elements
        if info.size < least:
            return Reason("small", f"fewer than min_elements={least} weights", "min_elements says from how many on")
        pattern = _why_no_pattern(info, settings)
        if pattern and self._recipe.strict:
            raise ValueError(f"tensor {quote(info.name)}: {pattern}; exclude it or give it a rule of its own")
        if pattern:
            return Reason("pattern", pattern)
        return self._readers.why_not(info, settings, one_scheme)

    def _kept(self, info: TensorInfo, settings: Settings, reason: Reason) -> TensorPlan:
        narrowed = self._narrower(info)
        if narrowed is None:
            return TensorPlan(info, settings, Plain(info.dtype), info.dtype, reason.text, copied=True, kept=reason)
        return TensorPlan(info, Settings(action="keep"), Plain(narrowed), narrowed, reason.text, kept=reason)

    def _narrower(self, info: TensorInfo) -> str | None:
        """Return the dtype of fewer bits that a tensor without codes becomes, where one is asked for."""
        dtype = self._recipe.dtype
        return NARROW[dtype] if dtype and info.dtype in NARROWED and info.shape else None

    def _pruned(self, info: TensorInfo, settings: Settings) -> TensorPlan:
        layout = sparse_layout(info, settings, None) or Plain(self._narrower(info) or info.dtype)
        return TensorPlan(info, settings, layout, _label(layout, info, settings), "")

    def _rounded(self, info: TensorInfo, settings: Settings) -> TensorPlan:
        of_codebook = code_layout(info, settings, self._assigned[info.name].scale_dtype)
        if of_codebook is not None:
            return TensorPlan(info, settings, of_codebook, _label(of_codebook, info, settings), "", of_codebook)
        assert settings.bits is not None and settings.scale_dtype is not None
        if self._one_group is None and self._readers.needs_int8(info, settings):
            eight = settings.with_codes(bits=8, group_size="channel")
            layout = CompressedTensors(8, "channel", settings.symmetric, settings.scale_dtype, INT)
            reason = "" if settings.bits == 8 else "transformers opens it in codes of 8 bits alone"
            return TensorPlan(info, eight, layout, _label(layout, info, eight), reason, layout)
        group, reason = self._group_size(info, settings)
        codes = CompressedTensors(settings.bits, group, settings.symmetric, settings.scale_dtype)
        if codes.why_not(info) is not None:
            ours = own_grid(info, settings)
            return TensorPlan(info, settings, ours, _label(ours, info, settings), "", ours)
        sparse = None if self._recipe.simulate else sparse_layout(info, settings, codes)
        return TensorPlan(info, settings, sparse or codes, _label(sparse or codes, info, settings), reason, codes)

    def _group_size(self, info: TensorInfo, settings: Settings) -> tuple[GroupSize, str]:
        """Return the group size that divides the columns, and why it is another than asked for."""
        if len(info.shape) != 2:
            return settings.group, ""
        dividing = self._expert_cols if self._readers.modules.kind(info.name) == "expert" else info.shape[1]
        reader = self._readers.of(settings)
        group = _dividing_group(settings.group, dividing, VLLM_GROUPS if reader in (BOTH, "vllm") else FALLBACK_GROUPS)
        if self._one_group is not None and reader in (BOTH, "transformers") and group != self._one_group:
            return self._one_group, f"groups of {self._one_group}, that all matrices have one scheme"
        if group == settings.group:
            return group, ""
        instead = "one scale a row" if group == "channel" else f"groups of {group}"
        return group, f"{dividing} columns are no multiple of {settings.group}: {instead}"


def _why_no_pattern(info: TensorInfo, settings: Settings) -> str:
    """Say why a tensor cannot be pruned in the pattern that is asked for; '' where it can."""
    cols = info.matrix_shape[1]
    if settings.pattern and cols % settings.pattern[1]:
        n, m = settings.pattern
        return f"prune='{n}:{m}' needs columns that are a multiple of {m}, not {cols}"
    if isinstance(settings.prune_pattern, tuple):
        try:
            block_shape(settings.prune_pattern, info.matrix_shape)
        except ValueError as error:
            return str(error)
    return ""


def _usual_scale_dtype(info: TensorInfo, settings: Settings) -> str:
    """Return what readers compute in, so that they decode to the very weights that codes were chosen for."""
    return "bfloat16" if info.dtype == "BF16" and settings.codebook is None else "float16"


def _dividing_group(group: GroupSize, cols: int, usual: Iterable[int]) -> GroupSize:
    """Return the group size where it divides the columns, else the largest usual one below it that does, or a row."""
    if isinstance(group, str) or cols % group == 0:
        return group
    return next((g for g in usual if g < group and cols % g == 0), "channel")


def _label(layout: WritableLayout, info: TensorInfo, settings: Settings) -> str:
    label = layout.label_for(info.shape)
    return f"{label}, {settings.changes}" if settings.changes else label
