"""What `compress` will do to each tensor, and the exact bytes that come of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..files import Checkpoint, TensorInfo, open_checkpoint
from ..files.errors import PATH_LIMIT, quote
from ..files.safetensors import count_bytes
from ..float_environment import default_floats
from ..layouts import bitsandbytes, codebook, sparse_scheme
from ..layouts.compressed_tensors import Part, Scheme, parts
from ..layouts.compressed_tensors_config import quantization_config, usual_format
from .evidence import refuse_quantized
from .forms import Form, code_form, sparse_form
from .notes import notes_on
from .parts import oversize_notes
from .recipe import Recipe, recipe_from_options
from .settings import Options, Settings
from .shards import ShardPlan, plan_shards
from .unit_removal import remove_from
from .units import block_shape

if TYPE_CHECKING:
    from typing_extensions import Unpack

WEIGHT = ".weight"  # what compressed-tensors compresses: parameters of this name
FALLBACK_GROUPS = (128, 64, 32, 16)
MATRIX_DTYPES = ("F32", "F16", "BF16", "F64")
PRUNED_DTYPES = ("F32", "F16", "BF16")  # F64 is computed in float32, which would not keep what stays


@dataclass(frozen=True)
class TensorPlan:
    """One tensor: where it comes from, how it will be stored (`stored`, for people), and why so.

    scheme: of its codes, where they are stored as compressed-tensors has them. copied: byte for byte, not even pruned.
    form: ours, in place of a scheme. counted: what a first pass over the source found, where the form needs one.
    looked: whether it is known if the weights lie on a grid, where the settings ask for it.
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

    @property
    def grid(self) -> Scheme | None:
        """The uniform grid of the codes, however they are stored."""
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
        if self.form is None and self.scheme is None:
            return self.source_bytes
        return sum(count_bytes(part.dtype, part.shape) for part in self.parts().values())

    def parts(self) -> dict[str, Part]:
        """The stored parts by role, under the names that they have in the file."""
        if self.form is not None:
            found = self.form.parts(self.info.matrix_shape)
        elif self.scheme is not None:
            found = parts(self.scheme, self.info.matrix_shape)
        else:
            return {"weights": Part(self.name, self.info.dtype, self.info.shape)}
        return {role: Part(f"{self.module}.{p.name}", p.dtype, p.shape) for role, p in found.items()}


@dataclass(frozen=True)
class Plan:
    """What `compress` will do. source_bytes, stored_bytes: the files of weights, headers and all.

    config: the `quantization_config`; empty where nothing is quantized. resized: numbers of config.json that change.
    """

    source: str
    recipe: Recipe
    shards: tuple[ShardPlan, ...]
    config: dict[str, Any]
    source_bytes: int
    notes: tuple[str, ...]
    resized: dict[str, int]

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        return tuple(tensor for shard in self.shards for tensor in shard.tensors)

    @property
    def stored_bytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    @property
    def at_most(self) -> bool:
        """Whether `stored_bytes` is a limit: only a look at the weights says how many are stored."""
        return any(tensor.at_most for tensor in self.tensors)

    @property
    def ratio(self) -> float:
        """source_bytes / stored_bytes."""
        return self.source_bytes / self.stored_bytes

    def lines(self) -> list[str]:
        """One line for each tensor, the totals, the notes: what --dry-run prints."""
        rows = [
            (quote(t.name), str(list(t.shape)), t.info.dtype, t.stored, f"{t.stored_bytes:,}", t.reason)
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


@default_floats
def plan(
    source: str | os.PathLike[str],
    *,
    recipe: Recipe | dict[str, Any] | str | os.PathLike[str] | None = None,
    **options: Unpack[Options],
) -> Plan:
    """What `compress` with these arguments would do, from the headers alone (and the layers that lose units)."""
    wish = recipe_from_options(recipe, **options)
    with open_checkpoint(source) as checkpoint:
        return make_plan(checkpoint, wish)


def make_plan(checkpoint: Checkpoint, recipe: Recipe) -> Plan:
    """The plan for an open checkpoint, which holds smaller layers from now on where units are removed. ValueError for
    one that is compressed already, for rules that match nothing, and where there is nothing to do."""
    refuse_quantized(checkpoint)
    removed = remove_from(checkpoint, recipe.remove_units, recipe.folder)
    assigned = recipe.assign(checkpoint.tensors)
    kept = {name: info for name, info in checkpoint.tensors.items() if not assigned[name].drop}
    plans = [_plan_tensor(info, assigned[name], recipe.min_elements) for name, info in kept.items()]
    if removed.reasons:
        plans = [replace(t, reason="; ".join(filter(None, (removed.reasons.get(t.name), t.reason)))) for t in plans]
    if all(t.copied for t in plans) and not (plans and (len(plans) < len(assigned) or removed.reasons)):
        why = "; ".join(sorted({t.reason for t in plans}))[:500] or "it holds no tensors"
        raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)}: no tensor can be compressed: {why}")
    return plan_of(checkpoint, recipe, plans, removed.config)


def plan_of(checkpoint: Checkpoint, recipe: Recipe, plans: list[TensorPlan], resized: dict[str, int]) -> Plan:
    """The plan for tensors, in the order of the checkpoint: what is in each file, and where."""
    compressed = {t.module: t.scheme for t in plans if t.scheme}
    others = [t.module for t in plans if not t.scheme and len(t.shape) == 2 and t.name.endswith(WEIGHT)]
    config = quantization_config(compressed, others) if compressed else bitsandbytes_config(plans)
    shards = tuple(plan_shards(checkpoint, plans, recipe, config))
    source_bytes = checkpoint.file_bytes
    alone = [(shard.tensors[0].name, shard.size) for shard in shards if len(shard.tensors) == 1]
    oversize = oversize_notes(alone, recipe.max_shard_size, "max_shard_size")
    notes = (*notes_on(checkpoint, recipe, plans, resized), *oversize)
    return Plan(os.fspath(checkpoint.path), recipe, shards, config, source_bytes, notes, resized)


def _plan_tensor(info: TensorInfo, settings: Settings, min_elements: int) -> TensorPlan:
    reason = _reason_to_copy(info, settings, min_elements)
    if reason:
        return TensorPlan(info, settings, None, info.dtype, reason, copied=True)
    cols, bits = info.matrix_shape[1], settings.bits
    if settings.pattern and cols % settings.pattern[1]:
        raise ValueError(
            f"tensor {quote(info.name)}: prune={settings.prune!r} needs columns that are a multiple of "
            f"{settings.pattern[1]}, not {cols}; exclude it or give it a rule of its own"
        )
    if isinstance(settings.prune_pattern, tuple):
        try:
            block_shape(settings.prune_pattern, info.matrix_shape)
        except ValueError as error:
            raise ValueError(f"tensor {quote(info.name)}: {error}; exclude it or give it a rule of its own") from None
    form: Form | None = code_form(info, settings)
    if form is None and bits is None:
        form = sparse_form(info, settings, None)
    if form is not None or bits is None:
        stored = _label(form.label if form else info.dtype, settings)
        return TensorPlan(info, settings, None, stored, "", copied=False, form=form)
    group = _dividing_group(settings.group, cols)
    if group != settings.group:
        instead = "one scale a row" if group == "channel" else f"groups of {group}"
        reason = f"{cols} columns are no multiple of {settings.group}: {instead}"
    stored_as = usual_format(bits, group)
    scheme = Scheme(bits, group, settings.symmetric, settings.scale_dtype, stored_as)
    form = sparse_form(info, settings, scheme)
    label = _label((form or scheme).label_for(cols), settings)
    return TensorPlan(info, settings, None if form else scheme, label, reason, copied=False, form=form)


def _reason_to_copy(info: TensorInfo, settings: Settings, min_elements: int) -> str:
    """Why a tensor is copied byte for byte, or ''."""
    if settings.keep:
        return "kept by the recipe"
    if not (settings.rounds or settings.changes or settings.storage == "sparse" or settings.recognize):
        return "nothing to do: neither bits nor prune, threshold or shrink"
    what = "compressed" if settings.rounds else "pruned"
    dtypes = MATRIX_DTYPES if settings.rounds else PRUNED_DTYPES
    if len(info.shape) != 2:
        return f"{len(info.shape)} dimension{'s' * (len(info.shape) != 1)}: only matrices are {what}"
    if info.dtype not in dtypes:
        return f"{info.dtype}: only {', '.join(dtypes)} are {what}"
    if not info.name.endswith(WEIGHT) or info.name == WEIGHT:
        name = f"tensors named <module>{WEIGHT}"
        return f"only {name} are pruned" if not settings.rounds else f"the layout holds only {name}"
    if not info.size:
        return "empty"
    if info.size < min_elements:
        return f"fewer than min_elements={min_elements} weights"
    return ""


def _dividing_group(group: int | str, cols: int) -> int | str:
    """The group size itself where it divides the columns, else the largest usual one below it that does, else
    a row."""
    if isinstance(group, str) or cols % group == 0:
        return group
    return next((g for g in FALLBACK_GROUPS if g < group and cols % g == 0), "channel")


def _label(stored: str, settings: Settings) -> str:
    return f"{stored}, {settings.changes}" if settings.changes else stored


def bitsandbytes_config(plans: list[TensorPlan]) -> dict[str, Any]:
    """Their `quantization_config`; empty unless all quantized tensors are in their layout, and of one kind."""
    forms = [t.form for t in plans if t.form]
    theirs = [form for form in forms if isinstance(form, bitsandbytes.Scheme)]
    if not forms or len(theirs) < len(forms) or len({form.kind for form in theirs}) > 1:
        return {}
    others = [t.module for t in plans if not t.form and len(t.shape) == 2 and t.name.endswith(WEIGHT)]
    return bitsandbytes.quantization_config(theirs[0].kind, theirs[0].dtype, others)
