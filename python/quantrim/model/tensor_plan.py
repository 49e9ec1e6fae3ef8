"""What will be done to one tensor, how it will be stored, and why so."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from ..files import TensorInfo
from ..files.errors import quote
from ..files.safetensors import count_bytes
from ..layouts import bitsandbytes, codebook, sparse_scheme
from ..layouts.compressed_tensors import INT, PACKED, Part, Scheme
from .forms import Form, code_form, decoded_dtype, form_bytes, form_parts, sparse_form
from .reader_modules import WEIGHT
from .readers import BOTH, Readers, Reason
from .recipe import Recipe
from .settings import Settings
from .units import block_shape

FALLBACK_GROUPS = (128, 64, 32, 16)
VLLM_GROUPS = (128, 64, 32)  # that its kernels for packed weights have
MATRIX_DTYPES = ("F32", "F16", "BF16", "F64")
PRUNED_DTYPES = ("F32", "F16", "BF16")  # F64 is computed in float32, which would not keep what stays
NARROWED = ("F64", "F32")  # what `dtype` makes smaller
NARROW = {"float16": "F16", "bfloat16": "BF16"}
_Likeness = tuple[int, str, tuple[int, ...], str, bool, bool]


class TensorPlan(NamedTuple):
    """One tensor: where it comes from, how it will be stored (`stored`, for people), and why so.

    scheme: of its codes, where they are stored as compressed-tensors has them. copied: byte for byte, not even pruned.
    form: ours, in place of a scheme. counted: what a first pass over the source found, where the form needs one.
    looked: whether it is known if the weights are already quantized, where the settings ask for it. exact: whether they
    are, and form changes none of them. kept: why it is not rounded though others are. narrowed: the dtype that weights
    without codes become. simulated: whether what the codes stand for is stored, in place of them.
    """

    info: TensorInfo
    settings: Settings
    scheme: Scheme | None
    stored: str
    reason: str
    copied: bool
    form: Form | None = None
    counted: object = None
    looked: bool = False
    exact: bool = False
    kept: Reason | None = None
    narrowed: str | None = None
    simulated: bool = False

    @property
    def grid(self) -> Scheme | None:
        """The uniform grid of the codes, however they are stored."""
        if isinstance(self.form, codebook.Scheme):
            return self.form.grid
        return self.form.grid if isinstance(self.form, sparse_scheme.Scheme) else self.scheme

    @property
    def bits(self) -> int | None:
        """Of a code; None where weights keep their dtype."""
        if isinstance(self.form, (codebook.Scheme, bitsandbytes.Scheme)):
            return self.form.bits
        return None if self.grid is None else self.grid.bits

    @property
    def to_look_at(self) -> bool:
        """Whether its form depends on weights that nobody has looked at."""
        return self.settings.recognize and not self.copied and not self.looked and self.info.dtype in PRUNED_DTYPES

    @property
    def at_most(self) -> bool:
        """Whether `stored_bytes` is a limit: how many weights are stored is not known yet."""
        return isinstance(self.form, sparse_scheme.Scheme) and self.counted is None

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
        """All parts together, without their names in the header."""
        form = self._stored_form
        if form is None:
            return count_bytes(self.narrowed or self.info.dtype, self.info.shape)
        return form_bytes(form, self.info)

    def parts(self) -> dict[str, Part]:
        """The stored parts by role, under the names that they have in the file."""
        form, module = self._stored_form, self.module
        if form is None:
            return {"weights": Part(self.name, self.narrowed or self.info.dtype, self.info.shape)}
        found = form_parts(form, self.info.matrix_shape)
        return {role: Part(f"{module}.{name}", dtype, shape) for role, (name, dtype, shape) in found.items()}

    @property
    def _stored_form(self) -> Form | Scheme | None:
        """None where floats are stored."""
        return None if self.simulated else self.form or self.scheme


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

    def _group_of_all(self, matrices: Iterable[TensorInfo]) -> int | str | None:
        """The group size of all codes for transformers, which decodes one scheme as it opens a model and so opens more;
        None where they cannot be of one scheme."""
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
        """What will be done to a tensor. ValueError for settings that it cannot have."""
        likeness = self._likeness(info)
        if likeness not in self._planned:
            self._planned[likeness] = self._plan(info)
        return self._planned[likeness]._replace(info=info)

    def _likeness(self, info: TensorInfo) -> _Likeness:
        """What a plan depends on; of settings there is one object for each rule."""
        name = info.name
        kind = self._readers.modules.kind(name)
        return id(self._assigned[name]), info.dtype, info.shape, kind, name.endswith(WEIGHT), name == WEIGHT

    def _plan(self, info: TensorInfo) -> TensorPlan:
        settings = self._assigned[info.name]
        reader = self._readers.of(settings)
        if reader != "any" and settings.storage == "auto":
            settings = replace(settings, storage="dense")  # sparse storage is for quantrim alone
        reason = self._why_kept(info, settings, one_scheme=self._one_group is not None)
        if reason is not None:
            return self._kept(info, settings, reason)
        settings = replace(settings, scale_dtype=settings.scale_dtype or _usual_scale_dtype(info, settings))
        planned = self._rounded(info, settings) if settings.rounds else self._pruned(info, settings)
        simulated = self._recipe.simulate and planned.bits is not None
        if not simulated:
            return planned
        stored = f"{info.dtype}, simulated {planned.stored}"
        return planned._replace(simulated=True, stored=stored, narrowed=self._narrower(info))

    def _why_kept(self, info: TensorInfo, settings: Settings, one_scheme: bool) -> Reason | None:
        """Why a tensor is neither rounded nor pruned; None where it is. one_scheme: whether all codes are of one."""
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
            return TensorPlan(info, settings, None, info.dtype, reason.text, copied=True, kept=reason)
        kept = Settings(keep=True)
        return TensorPlan(info, kept, None, narrowed, reason.text, copied=False, kept=reason, narrowed=narrowed)

    def _narrower(self, info: TensorInfo) -> str | None:
        """The dtype of fewer bits that a tensor without codes becomes, where one is asked for."""
        dtype = self._recipe.dtype
        return NARROW[dtype] if dtype and info.dtype in NARROWED and info.shape else None

    def _pruned(self, info: TensorInfo, settings: Settings) -> TensorPlan:
        form = sparse_form(info, settings, None)
        narrowed = None if form else self._narrower(info)
        stored = _label(form.label if form else narrowed or info.dtype, settings)
        return TensorPlan(info, settings, None, stored, "", copied=False, form=form, narrowed=narrowed)

    def _rounded(self, info: TensorInfo, settings: Settings) -> TensorPlan:
        of_codes = code_form(info, settings, self._assigned[info.name].scale_dtype)
        if of_codes is not None:
            return TensorPlan(info, settings, None, _label(of_codes.label, settings), "", copied=False, form=of_codes)
        assert settings.bits is not None and settings.scale_dtype is not None
        if self._one_group is None and self._readers.needs_int8(info, settings):
            scheme = Scheme(8, "channel", settings.symmetric, settings.scale_dtype, INT)
            eight = replace(settings, bits=8, group_size="channel")
            reason = "" if settings.bits == 8 else "transformers opens it in codes of 8 bits alone"
            label = _label(scheme.label_for(info.matrix_shape[1]), eight)
            return TensorPlan(info, eight, scheme, label, reason, copied=False)
        if len(info.shape) > 2 or not info.name.endswith(WEIGHT) or info.name == WEIGHT:
            return self._in_our_grid(info, settings)
        cols = info.matrix_shape[1]
        dividing = self._expert_cols if self._readers.modules.kind(info.name) == "expert" else cols
        reader = self._readers.of(settings)
        group = _dividing_group(settings.group, dividing, VLLM_GROUPS if reader in (BOTH, "vllm") else FALLBACK_GROUPS)
        reason = ""
        if group != settings.group:
            instead = "one scale a row" if group == "channel" else f"groups of {group}"
            reason = f"{dividing} columns are no multiple of {settings.group}: {instead}"
        if self._one_group is not None and reader in (BOTH, "transformers") and group != self._one_group:
            group, reason = self._one_group, f"groups of {self._one_group}, that all matrices have one scheme"
        scheme = Scheme(settings.bits, group, settings.symmetric, settings.scale_dtype, PACKED)
        form = None if self._recipe.simulate else sparse_form(info, settings, scheme)
        label = _label((form or scheme).label_for(cols), settings)
        return TensorPlan(info, settings, None if form else scheme, label, reason, copied=False, form=form)

    def _in_our_grid(self, info: TensorInfo, settings: Settings) -> TensorPlan:
        """Weights that are no matrix named weight: in codes that only quantrim reads."""
        assert settings.bits is not None
        group = settings.group
        if isinstance(group, int) and group >= info.matrix_shape[1]:
            group = "channel"
        grid = codebook.Scheme(
            "grid", settings.bits, group, decoded_dtype(info), settings.scale_dtype, symmetric=settings.symmetric
        )
        return TensorPlan(info, settings, None, _label(grid.label, settings), "", copied=False, form=grid)


def _why_no_pattern(info: TensorInfo, settings: Settings) -> str:
    """Why a tensor cannot be pruned in the pattern that is asked for; '' where it can."""
    cols = info.matrix_shape[1]
    if settings.pattern and cols % settings.pattern[1]:
        return f"prune={settings.prune!r} needs columns that are a multiple of {settings.pattern[1]}, not {cols}"
    if isinstance(settings.prune_pattern, tuple):
        try:
            block_shape(settings.prune_pattern, info.matrix_shape)
        except ValueError as error:
            return str(error)
    return ""


def _usual_scale_dtype(info: TensorInfo, settings: Settings) -> str:
    """What readers compute in, so that they decode to the very weights that codes were chosen for."""
    return "bfloat16" if info.dtype == "BF16" and settings.codebook is None else "float16"


def _dividing_group(group: int | str, cols: int, usual: Iterable[int]) -> int | str:
    """The group size itself where it divides the columns, else the largest usual one below it that does, else
    a row."""
    if isinstance(group, str) or cols % group == 0:
        return group
    return next((g for g in usual if g < group and cols % g == 0), "channel")


def _label(stored: str, settings: Settings) -> str:
    return f"{stored}, {settings.changes}" if settings.changes else stored
