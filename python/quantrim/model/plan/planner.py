"""The planner of `compress`: what is done to each tensor, and the exact bytes that come of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ...checks import Array
from ...files import Checkpoint
from ...files.disk.errors import PATH_LIMIT, quote
from ...layouts import registry
from ...layouts.base import WEIGHT
from ...layouts.plain import Plain
from ..recipe import Recipe
from ..streaming.overlay import Overlay
from .notes import notes_on
from .output_files import oversize_notes, plan_files
from .reader_modules import ReaderModules
from .readers import BOTH, Readers, partners
from .tensor_planner import TensorPlanner
from .types import Plan, Reason, Replaced, TensorPlan


def make_plan(checkpoint: Checkpoint, recipe: Recipe, replaced: Replaced, target: Path | None = None) -> Plan:
    """Return the plan for an open checkpoint, some of whose tensors are replaced first. ValueError for rules that match
    nothing, and where there is nothing to do. target: whose suffix says the format."""
    checkpoint = Overlay(checkpoint, replaced.arrays)
    assigned = recipe.assign(checkpoint.tensors)
    readers = Readers(checkpoint)
    kept = [info for name, info in checkpoint.tensors.items() if not assigned[name].drop]
    planner = TensorPlanner(kept, assigned, recipe, readers)
    plans = _with_partners([planner.plan(info) for info in kept], readers)
    for k, t in enumerate(plans) if replaced.reasons else ():
        plans[k] = t._replace(reason="; ".join(filter(None, (replaced.reasons.get(t.name), t.reason))))
    if all(t.copied for t in plans) and not (plans and (len(plans) < len(assigned) or replaced.reasons)):
        why = _why_nothing(plans, recipe.simulate)
        raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)}: no tensor can be compressed: {why}")
    _refuse_mixed_experts(plans, readers)
    return plan_of(checkpoint, recipe, plans, replaced.config, replaced.arrays, target)


def _refuse_mixed_experts(plans: list[TensorPlan], readers: Readers) -> None:
    """Raise ValueError where transformers would not open the model.

    It decodes all experts by one scheme, if any module has one."""
    joined = (BOTH, "transformers")
    rounded = any(t.runtime_layout and not t.simulated and readers.of(t.settings) in joined for t in plans)
    experts = [t for t in plans if t.name.endswith(WEIGHT) and readers.modules.kind(t.name) == "expert"]
    schemes = {t.runtime_layout for t in experts}
    if rounded and experts and (None in schemes or len(schemes) > 1):
        odd = next((t for t in experts if t.runtime_layout is None), experts[0])
        why = f": {odd.reason}" if odd.runtime_layout is None and odd.reason else ""
        raise ValueError(
            "transformers opens rounded experts only where all of them have one scheme, and no other rounded layers "
            f"beside experts that are not; not so {quote(odd.name)}{why}; give reader='vllm' or reader='any', or round "
            "all experts alike"
        )


def _with_partners(plans: list[TensorPlan], readers: Readers) -> list[TensorPlan]:
    """Return the plans, where matrices that vLLM joins are rounded all or none."""
    by_module = {t.module: t for t in plans if t.name.endswith(WEIGHT)}
    joined = partners(by_module)
    found = []
    for t in plans:
        others = [by_module[module] for module in joined.get(t.module, ()) if by_module[module].runtime_layout is None]
        if t.runtime_layout is not None and others and readers.of(t.settings) in (BOTH, "vllm"):
            reason = Reason("joined", f"vLLM joins it with {quote(others[0].name)}, which is not rounded")
            plain = Plain(t.info.dtype)
            t = TensorPlan(t.info, t.settings, plain, plain.label, reason.text, copied=True, kept=reason)
        found.append(t)
    return found


def _why_nothing(plans: list[TensorPlan], simulate: bool) -> str:
    """Say why all tensors are kept, the reason of the most bytes first."""
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
    target: Path | None,
) -> Plan:
    """Plan the output for tensors in the order of the checkpoint: what is in each file, and where."""
    layouts = {t.module: t.layout for t in plans if t.layout.bits is not None or t.layout.counted}
    modules = ReaderModules(checkpoint.config)
    others = [t.module for t in plans if t.module not in layouts and len(t.shape) == 2 and t.name.endswith(WEIGHT)]
    renamed = modules.other_names([*layouts, *others])
    config = registry.config_of(layouts, others, modules.absent(checkpoint.tensors), renamed)
    shards = tuple(plan_files(checkpoint, plans, recipe, config, target))
    source_bytes = checkpoint.file_bytes
    alone = [(shard.tensors[0].name, shard.size) for shard in shards if len(shard.tensors) == 1]
    oversize = oversize_notes(alone, recipe.max_shard_size, "max_shard_size")
    notes = (*notes_on(checkpoint, recipe, plans, resized), *oversize)
    return Plan(os.fspath(checkpoint.path), recipe, shards, config, source_bytes, notes, resized, replaced, target)
