"""What people should know of a plan: what differs from their wish, and who reads the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..files import Checkpoint
from ..layouts import codebook, sparse_scheme
from ..layouts.compressed_tensors_config import reader_notes
from .recipe import Recipe
from .targets import side_file_notes

if TYPE_CHECKING:
    from .plan import TensorPlan

_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")  # model types whose products are Conv1D


def notes_on(
    checkpoint: Checkpoint, recipe: Recipe, plans: Sequence[TensorPlan], resized: Mapping[str, int]
) -> Iterator[str]:
    """The notes on a plan. resized: the numbers of config.json that change."""
    config = checkpoint.config or {}
    yield from _on_what_is_left_out(checkpoint, plans)
    yield from side_file_notes(checkpoint)
    for key, value in resized.items():
        yield f"units are removed; in config.json {key} becomes {value}, not {config[key]}"
    if recipe.remove_units and not resized:
        yield "units are removed; config.json stays as it is, its sizes need the numbers that are left"
    other_groups = sum(1 for plan in plans if plan.scheme and plan.scheme.group_size != plan.settings.group)
    if other_groups:
        have = _tensors(other_groups, "tensor has other groups", "tensors have other groups")
        yield f"{have} than asked for, which do not divide the columns"
    schemes = {plan.module: plan.scheme for plan in plans if plan.scheme}
    yield from reader_notes(schemes)
    yield from _on_forms(plans)
    if schemes and config.get("model_type") in _TRANSPOSED:
        yield f"{config['model_type']} models hold their matrices transposed (Conv1D), which no reader decompresses"


def _on_what_is_left_out(checkpoint: Checkpoint, plans: Sequence[TensorPlan]) -> Iterator[str]:
    kept = {plan.name for plan in plans}
    dropped = [info.nbytes for name, info in checkpoint.tensors.items() if name not in kept]
    if dropped:
        are = _tensors(len(dropped), "tensor is", "tensors are")
        yield f"{are} left out, {sum(dropped):,} bytes; config.json stays as it is"


def _on_forms(plans: Sequence[TensorPlan]) -> Iterator[str]:
    """Which tensors nobody else reads, and what to do about it."""
    look = sum(plan.to_look_at for plan in plans)
    if look:
        are = _tensors(look, "tensor is", "tensors are")
        yield f"{are} looked at first: what lies on a grid is packed without any change, to another size"
    unknown = sum(plan.looked and getattr(plan.form, "kind", None) not in codebook.EXACT for plan in plans)
    if unknown:
        lie = _tensors(unknown, "tensor lies", "tensors lie")
        yield f"not recognized: {lie} on no grid that quantrim stores, and what else was asked for is done to them"
    sparse = sum(isinstance(plan.form, sparse_scheme.Scheme) for plan in plans)
    if sparse:
        are = _tensors(sparse, "tensor is", "tensors are")
        dense = "storage='dense' keeps them for others"
        yield f"{are} stored without zeros, which only quantrim reads: {dense}"
    coded = sum(isinstance(plan.form, codebook.Scheme) for plan in plans)
    if coded:
        are = _tensors(coded, "tensor is", "tensors are")
        yield f"{are} stored as codes in a layout of quantrim's own, which only quantrim reads"
    pruned = sum(1 for plan in plans if not plan.scheme and not plan.form and not plan.copied)
    if pruned:
        keep = _tensors(pruned, "tensor is pruned and keeps its dtype", "tensors are pruned and keep their dtype")
        yield f"{keep}: zeros take as much room as other weights"


def _tensors(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
