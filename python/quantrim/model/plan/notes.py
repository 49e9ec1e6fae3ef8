"""Notes for people on a plan: what differs from their wish, and who reads the result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ...files import Checkpoint
from ...files.disk.errors import quote
from ...layouts import registry
from ..recipe import Recipe
from .readers import Readers
from .types import Reason, TensorPlan

_SMALL = 0.01  # of the bytes, below which nobody asks why they stay
_NAMED_FILES = 10  # files in a note
_NAMED = 5  # tensors in a note; a report has all of them


def notes_on(
    checkpoint: Checkpoint, recipe: Recipe, plans: Sequence[TensorPlan], resized: Mapping[str, int]
) -> Iterator[str]:
    """Write the notes on a plan. resized: the numbers of config.json that change."""
    config = checkpoint.config or {}
    yield from _on_what_is_left_out(checkpoint, plans)
    for glob in recipe.without_effect(checkpoint.tensors):
        yield f"exclude={quote(glob)} matched 0 tensors"
    yield from side_file_notes(checkpoint)
    yield from checkpoint.notes
    for key, value in resized.items():
        yield f"units are removed; in config.json {key} becomes {value}, not {config.get(key)}"
    if recipe.remove_units and not resized:
        yield "units are removed; config.json stays as it is, its sizes need the numbers that are left"
    yield from _on_what_stays(plans, recipe.simulate)
    asked = [(t, t.runtime_layout) for t in plans if t.settings.group_size is not None]
    other_groups = sum(layout is not None and layout.group_size != t.settings.group for t, layout in asked)
    if other_groups:
        have = _tensors(other_groups, "tensor has other groups", "tensors have other groups")
        yield f"{have} than asked for, which do not divide the columns"
    written = [t for t in plans if not t.simulated]
    yield from registry.notes_on([t.layout for t in written])
    yield from _on_layouts(written)
    yield from _on_readers(checkpoint, written)
    if len(written) < len(plans):
        yield "simulated: the decoded weights are stored as floats, so that any reader opens it; nothing is smaller"


def _on_what_stays(plans: Sequence[TensorPlan], simulated: bool) -> Iterator[str]:
    """Yield a line for each reason why bytes stay as they were, and what would shrink them."""
    everything = sum(t.source_bytes for t in plans)
    stay: dict[Reason, list[TensorPlan]] = defaultdict(list)
    for t in plans:
        asked = t.kept is not None and t.kept.key == "nothing" and t.narrowed  # for another dtype, and has it
        if t.kept is not None and not t.settings.drop and not asked:
            stay[t.kept].append(t)
    sizes = {reason: sum(t.stored_bytes for t in kept) for reason, kept in stay.items()}
    for reason, kept in sorted(stay.items(), key=lambda item: -sizes[item[0]]):
        share = sizes[reason] / max(1, everything)
        unfit = reason.key == "pattern"  # what was asked for and cannot be done is named, however small
        if share >= _SMALL or unfit:
            where = _tensors(len(kept), "tensor", "tensors") + (f" ({_names(kept)})" if unfit else "")
            stay_as = "stay floats" if any(t.narrowed for t in kept) else "stay"
            yield f"{sizes[reason]:,} bytes ({_percent(share)}) {stay_as} in {where}: {reason.said(simulated)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= _SMALL else f"less than {100 * _SMALL:.0f} %"


def _names(plans: Sequence[TensorPlan]) -> str:
    """Join the names of the first few, and say how many more there are."""
    more = len(plans) - _NAMED
    names = ", ".join(quote(t.name) for t in plans[:_NAMED])
    return f"{names} and {more} more" if more > 0 else names


def _on_readers(checkpoint: Checkpoint, plans: Sequence[TensorPlan]) -> Iterator[str]:
    """Yield what readers do not open though it is rounded, and whether they are known at all."""
    readers = Readers(checkpoint)
    named = [t for t in plans if t.settings.reader == "any" and t.bits is not None]
    asked = [(t, readers.why_not(t.info, replace(t.settings, reader=None), one_scheme=False)) for t in named]
    for reason, first in {reason: t.name for t, reason in reversed(asked) if reason is not None}.items():
        count = sum(r == reason for _, r in asked)
        are = _tensors(count, f"tensor, {quote(first)}, is rounded", f"tensors, {quote(first)} first, are rounded")
        yield f"{are} though not every reader opens that: {reason.text}"
    unknown = [name for name in readers.modules.model_types if name not in readers.modules.families]
    rounded = [t for t in plans if t.bits is not None and readers.of(t.settings) != "any"]
    if rounded and unknown and not readers.modules.families:
        yield (
            f"model type {quote(unknown[0])} of config.json is not known: matrices were rounded whose names are linear "
            "layers in every model that is"
        )


def _on_what_is_left_out(checkpoint: Checkpoint, plans: Sequence[TensorPlan]) -> Iterator[str]:
    kept = {plan.name for plan in plans}
    dropped = [info.nbytes for name, info in checkpoint.tensors.items() if name not in kept]
    if dropped:
        are = _tensors(len(dropped), "tensor is", "tensors are")
        yield f"{are} left out, {sum(dropped):,} bytes; config.json stays as it is"


def _on_layouts(plans: Sequence[TensorPlan]) -> Iterator[str]:
    """Yield which tensors nobody else reads, and what to do about it."""
    to_scan = sum(plan.to_scan for plan in plans)
    if to_scan:
        are = _tensors(to_scan, "tensor is", "tensors are")
        yield f"{are} scanned first: what is already quantized is packed without any change, to another size"
    unknown = sum(plan.scanned and not plan.exact for plan in plans)
    if unknown:
        are = _tensors(unknown, "tensor is", "tensors are")
        yield f"not recognized: {are} not quantized in a layout of quantrim, and the other options hold for them"
    for note in registry.PRIVATE_NOTES:
        private = sum(plan.layout.note == note for plan in plans)
        if private:
            yield f"{_tensors(private, 'tensor is', 'tensors are')} {note}"
    pruned = sum(plan.layout.label == plan.info.dtype and not plan.copied for plan in plans)
    if pruned:
        keep = _tensors(pruned, "tensor is pruned and keeps its dtype", "tensors are pruned and keep their dtype")
        yield f"{keep}: zeros take as much room as other weights"


def _tensors(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def side_file_notes(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield what is not copied beside rewritten weights, and what is copied though it is of weights."""
    beside = checkpoint.beside
    if beside.others:
        yield f"not copied: {named_sizes(beside.others)}; weights beside the model stay where they are"
    if beside.odd:
        odd = [f"{quote(name)} ({what})" for name, what in sorted(beside.odd.items())[:_NAMED_FILES]]
        yield f"not copied: {', '.join(odd)}"
    if beside.weights:
        yield f"copied as they are: {named_sizes(beside.weights)}; only the weights of the model itself are rewritten"


def named_sizes(files: Mapping[str, int]) -> str:
    """List files with their bytes, the first of them by name."""
    shown = [f"{quote(name)} ({size:,} bytes)" for name, size in list(files.items())[:_NAMED_FILES]]
    more = len(files) - len(shown)
    return ", ".join(shown) + (f" and {more} more, {sum(files.values()):,} bytes in all" if more else "")
