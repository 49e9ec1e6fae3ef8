"""What `compress` will do to each tensor, and the exact bytes that come of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..checks import Array
from ..files import Checkpoint, open_checkpoint
from ..files.disk.errors import PATH_LIMIT, quote
from ..float_environment import default_floats
from ..layouts import registry
from ..layouts.base import WEIGHT
from ..layouts.plain import Plain
from ..options import given
from ..words import CodebookName, Float, NarrowFloat, Reader, Rounding, ScaleRule, Scope, Score, Storage, ThresholdMode
from .evidence import refuse_quantized
from .notes import notes_on
from .overlay import Overlay
from .parts import oversize_notes
from .reader_modules import ReaderModules
from .readers import BOTH, Readers, Reason, partners
from .recipe import Recipe, recipe_from_options
from .shards import ShardPlan, plan_shards
from .tensor_plan import TensorPlan, TensorPlanner
from .unit_removal import remove_from


@dataclass(frozen=True)
class Plan:
    """What `compress` will do. source_bytes, stored_bytes: the files of weights, headers and all.

    config: the `quantization_config`; empty where nothing is quantized. resized: numbers of config.json that change.
    replaced: what tensors are, before anything else happens to them, in place of what the source has.
    """

    source: str
    recipe: Recipe
    shards: tuple[ShardPlan, ...]
    config: dict[str, Any]
    source_bytes: int
    notes: tuple[str, ...]
    resized: dict[str, int]
    replaced: Mapping[str, Array] = field(default_factory=dict, repr=False, compare=False)

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


@default_floats
def plan(
    source: str | os.PathLike[str],
    *,
    bits: int | Literal["auto"] | None = "auto",
    group_size: int | Literal["channel", "tensor"] | None = None,
    codebook: CodebookName | Iterable[float] | None = None,
    clusters: int | None = None,
    recognize: bool = False,
    symmetric: bool = True,
    scale: ScaleRule | float | None = None,
    scale_dtype: Float | None = None,
    rounding: Rounding = "even",
    prune: float | str | None = None,
    prune_score: Score = "magnitude",
    prune_data: str | os.PathLike[str] | None = None,
    prune_pattern: Literal["row", "column"] | tuple[int, int] | None = None,
    prune_scope: Scope = "tensor",
    prune_axis: Literal[1] | None = None,
    seed: int = 0,
    threshold: float | None = None,
    threshold_mode: ThresholdMode = "magnitude",
    shrink_l1: float = 0.0,
    shrink_l2: float = 0.0,
    shrink_axis: Literal[1] | None = None,
    strict: bool = False,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    drop: str | Iterable[str] | None = None,
    min_elements: int = 4096,
    reader: Reader | None = None,
    simulate: bool = False,
    dtype: NarrowFloat | None = None,
    storage: Storage = "auto",
    max_shard_size: int | str | None = None,
    recipe: Recipe | dict[str, Any] | str | os.PathLike[str] | None = None,
) -> Plan:
    """What `compress` with these arguments would do, from the headers alone (and the layers that lose units)."""
    wish = recipe_from_options(recipe, **given(locals()))
    with open_checkpoint(source) as checkpoint:
        return make_plan(checkpoint, wish)


def make_plan(checkpoint: Checkpoint, recipe: Recipe) -> Plan:
    """The plan for an open checkpoint. ValueError for one that is compressed already, for rules that match nothing, and
    where there is nothing to do."""
    refuse_quantized(checkpoint)
    removed = remove_from(checkpoint, recipe.remove_units, recipe.folder)
    checkpoint = Overlay(checkpoint, removed.arrays)
    assigned = recipe.assign(checkpoint.tensors)
    readers = Readers(checkpoint)
    kept = [info for name, info in checkpoint.tensors.items() if not assigned[name].drop]
    planner = TensorPlanner(kept, assigned, recipe, readers)
    plans = _with_partners([planner.plan(info) for info in kept], readers)
    for k, t in enumerate(plans) if removed.reasons else ():
        plans[k] = t._replace(reason="; ".join(filter(None, (removed.reasons.get(t.name), t.reason))))
    if all(t.copied for t in plans) and not (plans and (len(plans) < len(assigned) or removed.reasons)):
        why = _why_nothing(plans, recipe.simulate)
        raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)}: no tensor can be compressed: {why}")
    _refuse_mixed_experts(plans, readers)
    return plan_of(checkpoint, recipe, plans, removed.config, removed.arrays)


def _refuse_mixed_experts(plans: list[TensorPlan], readers: Readers) -> None:
    """ValueError where transformers would not open the model: it decodes all experts by one scheme, if any module has
    one."""
    joined = (BOTH, "transformers")
    rounded = any(t.scheme and not t.simulated and readers.of(t.settings) in joined for t in plans)
    experts = [t for t in plans if t.name.endswith(WEIGHT) and readers.modules.kind(t.name) == "expert"]
    schemes = {t.scheme for t in experts}
    if rounded and experts and (None in schemes or len(schemes) > 1):
        odd = next((t for t in experts if t.scheme is None), experts[0])
        why = f": {odd.reason}" if odd.scheme is None and odd.reason else ""
        raise ValueError(
            "transformers opens rounded experts only where all of them have one scheme, and no other rounded layers "
            f"beside experts that are not; not so {quote(odd.name)}{why}; give reader='vllm' or reader='any', or round "
            "all experts alike"
        )


def _with_partners(plans: list[TensorPlan], readers: Readers) -> list[TensorPlan]:
    """The plans, where matrices that vLLM joins are rounded all or none."""
    by_module = {t.module: t for t in plans if t.name.endswith(WEIGHT)}
    joined = partners(by_module)
    found = []
    for t in plans:
        others = [by_module[module] for module in joined.get(t.module, ()) if by_module[module].scheme is None]
        if t.scheme is not None and others and readers.of(t.settings) in (BOTH, "vllm"):
            reason = Reason("joined", f"vLLM joins it with {quote(others[0].name)}, which is not rounded")
            plain = Plain(t.info.dtype)
            t = TensorPlan(t.info, t.settings, plain, plain.label, reason.text, copied=True, kept=reason)
        found.append(t)
    return found


def _why_nothing(plans: list[TensorPlan], simulate: bool) -> str:
    """Why all tensors are kept, the reason of the most bytes first."""
    nbytes: Counter[Reason] = Counter()
    for t in plans:
        if t.kept is not None:
            nbytes[t.kept] += t.source_bytes
    reasons = [reason.said(simulate) for reason, _ in nbytes.most_common(5)]
    return "; ".join(reasons) or "it holds no tensors"


def plan_of(
    checkpoint: Checkpoint,
    recipe: Recipe,
    plans: list[TensorPlan],
    resized: dict[str, int],
    replaced: Mapping[str, Array],
) -> Plan:
    """The plan for tensors, in the order of the checkpoint: what is in each file, and where."""
    layouts = {t.module: t.layout for t in plans if t.layout.bits is not None or t.layout.counted}
    modules = ReaderModules(checkpoint.config)
    others = [t.module for t in plans if t.module not in layouts and len(t.shape) == 2 and t.name.endswith(WEIGHT)]
    renamed = modules.other_names([*layouts, *others])
    config = registry.config_of(layouts, others, modules.absent(checkpoint.tensors), renamed)
    shards = tuple(plan_shards(checkpoint, plans, recipe, config))
    source_bytes = checkpoint.file_bytes
    alone = [(shard.tensors[0].name, shard.size) for shard in shards if len(shard.tensors) == 1]
    oversize = oversize_notes(alone, recipe.max_shard_size, "max_shard_size")
    notes = (*notes_on(checkpoint, recipe, plans, resized), *oversize)
    return Plan(os.fspath(checkpoint.path), recipe, shards, config, source_bytes, notes, resized, replaced)
