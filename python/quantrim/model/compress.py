"""A checkpoint in, a smaller one out: streamed, on all threads, whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from .. import backend
from ..files import Checkpoint, Writer, open_checkpoint, refuse_same_file
from ..files.disk.descriptors import named_path
from ..files.disk.errors import quote
from ..files.disk.strict_json import collector_paused
from ..float_environment import default_floats
from ..options import given
from ..words import (
    CodebookName,
    Float,
    NarrowFloat,
    Reader,
    Rounding,
    ScaleRule,
    Scope,
    Score,
    Storage,
    ThresholdMode,
)
from .edit.remove_units import remove_from
from .encode.first_pass import with_counts, with_detected_grids
from .encode.index import index_of
from .encode.stacks import rounded_together, stacks_of
from .encode.targets import check_target, open_output
from .encode.tensor_writer import Done, Jobs, TensorWriter, compress_jobs, copy_jobs
from .plan.choose_layout import pruned_bytes
from .plan.evidence import refuse_quantized
from .plan.output_files import maker_of
from .plan.planner import make_plan
from .plan.types import OutputFile, Plan, TensorPlan, layout_bytes
from .prune.budgets import Pruners
from .recipe import Recipe, recipe_from_options
from .report.errors import Errors
from .report.figures import Steps, TensorReport
from .report.provenance import peak_memory, settings_table, versions
from .report.report import Report
from .streaming import chunks
from .streaming.overlay import Overlay
from .streaming.reader import ChunkReader
from .streaming.workers import Buffers, Workers, gathered

Progress = Callable[[int, int, str], object]  # source bytes done, of how many, the tensor at work


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
    destination: str | os.PathLike[str] | None = None,
) -> Plan:
    """Return what `compress` with these arguments would do, from the headers alone (and the layers that lose units).

    destination: whose suffix says of which format the sizes are; safetensors without it.
    """
    wish = recipe_from_options(recipe, **given(locals()))
    target = None if destination is None else named_path(destination, "destination")
    with open_checkpoint(source) as checkpoint:
        maker_of(checkpoint, target)  # an error before the work
        return planned(checkpoint, wish, target)


def planned(checkpoint: Checkpoint, recipe: Recipe, target: Path | None = None) -> Plan:
    """Return the plan for an open checkpoint, which stays as it is. ValueError also for one that is quantized already.
    """
    refuse_quantized(checkpoint)
    return make_plan(checkpoint, recipe, remove_from(checkpoint, recipe.remove_units, recipe.folder), target)


@default_floats
def compress(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
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
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a smaller copy of a checkpoint that transformers and vLLM open.

    source: a file of weights (.safetensors; .npz, .npy; .pt, .pth, .bin, .ckpt of PyTorch, of which nothing is run;
        .keras, .h5), or a model folder (with its index, if it has shards), whose other files and subfolders are
        copied; what is not, such as weights in other formats, is in the notes. destination: of a file, one that ends
        in .safetensors, .npz or .npy, or, for floats, a copy of the source if that is of Keras; of a folder, a folder
        of safetensors. It appears whole or not at all, whatever happens; one that exists is replaced only with
        overwrite=True.

    Options; None is as by default, but for bits:
    bits: Bits of a weight: 4 by default. None: no rounding, which is the default with prune or threshold. Then weights
        are zeroed and keep their dtype.
    group_size: Neighbours in a row that share a scale: 32 by default, all ("channel") at 8 bits, 64 for codebooks.
        Fewer are closer and larger. "tensor", one scale for all, goes with codebook and clusters. Where it does not
        divide the columns, the largest of 64, 32, 16 that does, else the whole row.
    codebook: In place of bits: nf4, fp4, mxfp4, mxint8, binary, ternary, or 2 to 256 ascending values. nf4 and fp4 are
        those of bitsandbytes; only quantrim reads the others. As in `quantize_codebook`. "nf4" and "fp4" are stored as
        bitsandbytes has them, with float32 scales, where group_size is 32, 64, ... 4096 and divides the columns
        (scale_dtype="bfloat16" keeps them ours).
    clusters: In place of bits: K values, 2..256, that the weights of a tensor share. Only quantrim reads them. As in
        `cluster`.
    recognize: Pack weights that are quantized already, though they are floats, without any change; the other options
        are for the rest. Only quantrim reads them. Each tensor is scanned first: one on a grid, or of at most 256
        values, is neither pruned nor rounded.
    symmetric: Codes around zero (default); or around a zero point that each group has, closer where its weights are
        mostly on one side of zero.
    scale: What a group's scale follows: the largest weight (absmax: default at 8 bits and with zero points), the least
        error (mse: default below 8 bits), powers of two. Or a number X for all: w becomes round(w / X) * X.
    scale_dtype: How scales are stored: by default bfloat16 for bfloat16 weights, float32 in layouts of bitsandbytes,
        else float16.
    rounding: Ties to "even" (default) or "away" from zero, all down ("floor"), or by chance ("stochastic").
    prune: Zero this share of each tensor: 0.5 is half. With N:M, such as 2:4, N of each M neighbours in a row stay.
    prune_score: What goes first is what scores lowest: by magnitude (default) or at random; l1, l2 with prune_pattern;
        the others with prune_data.
    prune_data: A checkpoint that has, under the names of the weights, the norms of their inputs (wanda), gradients
        (taylor), squared gradients (fisher), the Hessian's diagonal (obd) or scores (given). Norms are (cols,); the
        others (rows, cols); scores of whole rows or columns may be (rows,) or (cols,).
    prune_pattern: Zero whole rows, columns, or blocks of R x C weights, such as 4x1. "row", "column" or (rows, cols):
        those with the lowest sums of scores.
    prune_scope: The share is of each tensor (default), or of all together. "global": one exact budget for all tensors
        of the same prune, prune_score and prune_pattern.
    prune_axis: 1: the share is of each row.
    seed: Of rounding="stochastic" and prune_score="random": 0 by default.
    threshold: In place of prune: zero weights of a magnitude below T.
    threshold_mode: As `threshold` has it: "magnitude" (default), "signed": w up to T, or "soft": all others come nearer
        to 0.
    shrink_l1: In place of prune: the l1 penalty of `shrink`.
    shrink_l2: In place of prune: the l2 penalty of `shrink`.
    shrink_axis: 1: shrink_l1 and shrink_l2 are of each row.
    strict: An error, not a note, where a tensor cannot be pruned in the pattern.
    include: Compress only tensors of such names, also what only quantrim opens then. A GLOB must match the whole name,
        .weight and all; put it in quotes: '*.mlp.*.weight'. May be repeated, like the next two.
    exclude: Copy tensors of such names as they are.
    drop: Leave tensors of such names out.
    min_elements: Copy tensors of fewer weights: 4096 by default. Those of less than two dimensions are copied, too.
    reader: Who must open it. By default transformers and vllm both, or, of a single file, any: the smallest, for
        quantrim alone. "transformers", "vllm": in the layouts of compressed-tensors, and only modules that it opens so.
        "bitsandbytes": NF4 or FP4, opened by transformers. "any": all weights of two dimensions and more, in layouts
        that may be for quantrim and `decompress` alone. The notes say what stayed as it was, and why.
    simulate: Store what rounding and pruning make of the weights as floats, under the names and dtypes of the source:
        nothing is smaller, and any program can measure the loss.
    dtype: What float32 and float64 tensors become that are not rounded.
    storage: Whether zeros are left out, which only quantrim reads: sparse does so, dense never; auto (default) where
        weights are pruned and rounded, no other reader must open them, and it saves a quarter.
    max_shard_size: Of a folder: no file larger than this, such as 2GB, 500MiB, or bytes. Unless one tensor is.
    recipe: a Recipe, a table, or the path of a TOML file, instead of all of these.
    progress: called with (bytes done, bytes in all, tensor) in this thread; what it raises ends the work.

    Memory: some 20 MB for each thread, a byte for each zero point of one tensor, the rows of a block of prune_pattern
    (sixteen rows for "column"), tensors that are recognized or share their values as a whole, and layers that lose
    units (`remove_units` of a recipe), whatever the size of the model. The bytes written do not depend on threads or
    machine.
    ValueError for what cannot be done: NaN, a scale that overflows, a rule that matches nothing.

    >>> import tempfile
    >>> from quantrim.demo import digits
    >>> with digits.model_file() as source, tempfile.TemporaryDirectory() as folder:
    ...     report = compress(source, f"{folder}/small.safetensors", bits=4, group_size=32)
    >>> [tensor.label for tensor in report.tensors if tensor.name == "fc1.weight"], round(report.ratio, 1)
    (['int4 group 32 symmetric'], 5.7)
    """
    asked = locals()  # before there are others: the arguments
    started = time.perf_counter()
    wish = recipe_from_options(recipe, **given(asked))
    target = named_path(destination, "destination")
    with open_checkpoint(source) as checkpoint:
        refuse_same_file(wish.data_files, target)
        check_target(checkpoint, source, target, overwrite)
        with collector_paused():
            plan = planned(checkpoint, wish, target)
        run = _Run(checkpoint, plan, progress)
        count = backend.current_threads()
        with Workers(count) as workers:
            plan = with_detected_grids(checkpoint, plan, run.source, workers, run.tick)
        with Pruners(plan.tensors, wish.folder) as pruners:
            with Workers(count) as workers:
                pruners.find_budgets(run.source, workers, run.advance)
                plan = with_counts(checkpoint, plan, run.source, pruners, workers, run.tick)
            config, index = _config(checkpoint, plan), _index(checkpoint, plan)
            with open_output(checkpoint, target, overwrite, config, index) as open_target:
                for shard in plan.shards:
                    # the workers end before the file is closed: none may write to a descriptor used anew
                    with open_target(shard) as out, Workers(count) as workers:
                        run.write_shard(shard, pruners, out, workers)
                checkpoint.check_unchanged()
    seconds = time.perf_counter() - started
    with collector_paused():
        return _report(plan, target, run.errors, seconds, count)


class _Run:
    """The work on all tensors, with what has been done so far."""

    def __init__(self, checkpoint: Checkpoint, plan: Plan, progress: Progress | None) -> None:
        self.source = ChunkReader(Overlay(checkpoint, plan.replaced), Buffers())
        self._progress = progress
        self._done = 0
        self._total = sum(tensor.source_bytes for tensor in plan.tensors)
        self.errors: dict[str, Errors] = {}

    def write_shard(self, shard: OutputFile[TensorPlan], pruners: Pruners, out: Writer, workers: Workers) -> None:
        stacks, others = stacks_of(shard.tensors)
        jobs = ((job, t.source_bytes) for t in others for job in self._jobs(t, pruners, out, workers))

        def alone(tensor: TensorPlan) -> list[Done]:
            return [job() for job in self._jobs(tensor, pruners, out, workers)]

        together = (partial(rounded_together, self.source, each, out, alone) for each in stacks)
        pieces: Iterator[Callable[[], list[Done]]] = chain(gathered(jobs), together)
        for done in chain.from_iterable(workers.run(pieces)):
            if done.errors is not None:
                self._add_errors(done.tensor.name, done.errors)
            if done.finish is not None:
                done.finish()
            self.advance(done.tensor.name, done.nbytes)
        pruners.check_unchanged()

    def _jobs(self, tensor: TensorPlan, pruners: Pruners, out: Writer, workers: Workers) -> Jobs:
        if tensor.copied:
            return copy_jobs(self.source, tensor, out)
        writer = TensorWriter(self.source, tensor, pruners.of(tensor), out)
        return compress_jobs(writer, workers, chunks.CHUNK_BYTES, partial(self.advance, tensor.name))

    def _add_errors(self, name: str, errors: Errors) -> None:
        if name in self.errors:
            self.errors[name].add(errors)
        else:
            self.errors[name] = errors

    def tick(self, name: str) -> None:
        """Say that a tensor is being worked on, and give the caller the chance to stop."""
        if self._progress is not None:
            self._progress(self._done, self._total, name)

    def advance(self, name: str, nbytes: int) -> None:
        """Report progress in bytes of the source: 0 during a scan."""
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total, name)


def _config(checkpoint: Checkpoint, plan: Plan) -> dict[str, Any] | None:
    """Return config.json with what changes in it; None where nothing does."""
    changes = plan.resized | ({"quantization_config": plan.config} if plan.config else {})
    return {**(checkpoint.config or {}), **changes} if changes else None


def _index(checkpoint: Checkpoint, plan: Plan) -> dict[str, Any] | None:
    """Return the index over the files of a folder; None where there is one file of the usual name."""
    if not checkpoint.is_folder or (len(plan.shards) == 1 and plan.shards[0].name == "model.safetensors"):
        return None
    total = sum(tensor.stored_bytes for tensor in plan.tensors)
    names = {
        each.name: shard.name for shard in plan.shards for tensor in shard.tensors for each in tensor.arrays().values()
    }
    return index_of(checkpoint, names, total, [tensor.info for tensor in plan.tensors])


def _report(plan: Plan, target: Path, errors: dict[str, Errors], seconds: float, threads: int) -> Report:
    rows, notes, total = [], list(plan.notes), Errors()
    for t in plan.tensors:
        row = (t.name, t.shape, t.source_bytes, t.stored_bytes, t.label, t.reason, t.bits)
        e = errors.get(t.name)
        figures = {} if e is None else {key: getattr(e, key) for key in ("sparsity", "snr_db", "cosine", "worst")}
        rows.append(TensorReport(*row, **figures, narrowed=t.narrowed is not None and t.kept is not None))
        if e is not None:
            total.add(e)
        if e is not None and e.underflowed_groups:
            groups = "1 group" if e.underflowed_groups == 1 else f"{e.underflowed_groups} groups"
            lost = f"{groups} of weights too small for scales in {t.settings.scale_dtype}"
            notes.append(f"tensor {quote(t.name)}: {lost} became zeros; use scale_dtype='float32'")
    return Report(
        source=plan.source,
        destination=os.fspath(target),
        recipe=plan.recipe.as_dict(),
        tensors=tuple(rows),
        source_bytes=plan.source_bytes,
        stored_bytes=plan.stored_bytes,
        seconds=seconds,
        threads=threads,
        notes=tuple(notes),
        snr_db=total.snr_db,
        sparsity=total.sparsity,
        steps=_steps(plan, errors),
        settings=settings_table(plan.recipe),
        versions=versions(),
        peak_memory=peak_memory(),
    )


def _steps(plan: Plan, errors: dict[str, Errors]) -> Steps | None:
    """Count the bytes after each step; None where no tensor was both pruned and quantized."""
    done = [t for t in plan.tensors if not t.copied and t.settings.rounds]
    twice = {t.name for t in done if t.settings.sparsity or t.settings.pattern}
    if not twice:
        return None
    pruned = quantized = 0
    for t in plan.tensors:
        kept = errors[t.name].kept if t.name in twice else t.info.size
        pruned += pruned_bytes(t.info, kept) if t.name in twice else t.source_bytes
        quantized += layout_bytes(t.codes, t.shape) if t.name in twice and t.codes else t.stored_bytes
    original = sum(t.source_bytes for t in plan.tensors)
    return Steps(original, pruned, quantized, sum(t.stored_bytes for t in plan.tensors))
