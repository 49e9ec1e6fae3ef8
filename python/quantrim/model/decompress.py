"""A compressed checkpoint in, one of floats out: streamed, on all threads, whole or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend, checks
from ..files import Checkpoint, Writer, open_checkpoint
from ..files.disk.descriptors import named_path
from ..files.disk.errors import PATH_LIMIT, quote
from ..files.disk.strict_json import collector_paused
from ..files.folder import read_json
from ..files.tensor_info import little_endian
from ..float_environment import default_floats
from ..layouts.base import Chunk
from .encode.narrowing import cast, cost
from .encode.targets import COPY_BYTES, check_target, open_output
from .plan.decompress_plan import FLOATS, DecompressPlan, Writing, numpy_dtype, plan_decompress
from .plan.types import OutputFile
from .report.errors import Errors
from .streaming import chunks
from .streaming.chunks import cut
from .streaming.workers import Workers, gathered

Progress = Callable[[int, int, str], object]  # bytes written, of how many, the tensor at work


@dataclass(frozen=True)
class DecodedTensor:
    """One tensor: its label in the source, and the dtype and bytes that it has now. decoded: from codes or sparse.
    copied: byte for byte.

    snr_db: where it was narrowed, what that cost; infinity where nothing was lost.
    """

    name: str
    shape: tuple[int, ...]
    label: str
    dtype: str
    source_bytes: int
    nbytes: int
    decoded: bool
    copied: bool
    snr_db: float | None = None


@dataclass(frozen=True)
class Decompressed:
    """The outcome of `decompress`. source_bytes, nbytes: the files of weights, before and after. snr_db: of all weights
    that were narrowed together."""

    source: str
    destination: str
    tensors: tuple[DecodedTensor, ...]
    left_out: tuple[str, ...]
    source_bytes: int
    nbytes: int
    seconds: float
    threads: int
    notes: tuple[str, ...]
    snr_db: float | None = None

    @property
    def decoded(self) -> int:
        """The number of tensors that were decoded."""
        return sum(tensor.decoded for tensor in self.tensors)

    def summary(self) -> str:
        """Say in one sentence what was written."""
        return f"{self.source_bytes:,} bytes became {self.nbytes:,} of floats in {self.seconds:.2f} s"


@default_floats
def decompress(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    dtype: object = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Decompressed:
    """Write a compressed checkpoint as floats, which any reader of safetensors opens.

    source: a file of weights or a model folder: whatever `compress` writes, and checkpoints of compressed-tensors
        (integers, FP8, NVFP4, MX, sparse-bitmask), FP8 with weight_scale_inv, and bitsandbytes (NF4, FP4, LLM.int8()).
        destination: of a file, one that ends in .safetensors, .npz or .npy, of a folder, a folder of safetensors; it
        appears whole or not at all, and replaces another only with overwrite=True.
    dtype: "float32", "float16" or "bfloat16" for all floats, rounded to nearest even; integers stay. By default no
        value changes: what was never compressed is copied byte for byte, and each weight has the values that
        `logical_tensors` decodes, in the dtype that config.json names, or where it names none that of the floats
        beside, if it has all of them; else in that of the scales. A float32 model with float16 scales comes back as
        float32.
    progress: called with (bytes written, of how many, tensor) in this thread; what it raises ends the work.

    Files, index and the files beside them are those of the source; config.json loses its quantization_config, and its
    dtype follows what is written. Scales of activations and caches are left out.

    Memory: some 20 MB for each thread, whatever the size of the model; a row is decoded whole. The bytes written do not
    depend on threads or machine. ValueError, and nothing written, for a tensor that is quantized in a way that is not
    read, for a value that `dtype` cannot hold, and where there is nothing to do.

    >>> import tempfile
    >>> from quantrim.demo import digits
    >>> from quantrim.model import compress
    >>> with digits.model_file() as source, tempfile.TemporaryDirectory() as folder:
    ...     _ = compress(source, f"{folder}/small.safetensors", bits=4, group_size=32)
    ...     done = decompress(f"{folder}/small.safetensors", f"{folder}/floats.safetensors", dtype="float32")
    >>> done.decoded, sorted({tensor.dtype for tensor in done.tensors})
    (2, ['F32'])
    """
    started = time.perf_counter()
    word = check_dtype(dtype)
    target = named_path(destination, "destination")
    with open_checkpoint(source) as checkpoint:
        check_target(checkpoint, source, target, overwrite)
        with collector_paused():
            plan = plan_decompress(checkpoint, word, target)
        run = _Run(checkpoint, plan, progress)
        count = backend.current_threads()
        index = None if checkpoint.index is None else _index(checkpoint.index, plan)
        with open_output(checkpoint, target, overwrite, plan.config, index) as open_target:
            for file in plan.files:
                # the workers end before the file is closed: none may write to a descriptor used anew
                with open_target(file) as out, Workers(count) as workers:
                    run.write(file, out, workers)
            checkpoint.check_unchanged()
    with collector_paused():
        return _report(plan, target, run.errors, time.perf_counter() - started, count)


def check_dtype(dtype: object) -> str | None:
    """Return the word for a dtype, or None for None."""
    if dtype is None:
        return None
    return checks.choice("dtype", dtype if isinstance(dtype, str) else np.dtype(dtype).name, FLOATS)  # type: ignore[call-overload]


@dataclass(frozen=True)
class _Done:
    writing: Writing
    nbytes: int
    errors: Errors | None = None


class _Run:
    """The work on all tensors, with what has been done so far."""

    def __init__(self, checkpoint: Checkpoint, plan: DecompressPlan, progress: Progress | None) -> None:
        self._checkpoint = checkpoint
        self._progress = progress
        self._done, self._total = 0, sum(writing.nbytes for writing in plan.tensors)
        self.errors: dict[str, Errors] = {}

    def write(self, file: OutputFile[Writing], out: Writer, workers: Workers) -> None:
        jobs = ((job, t.nbytes) for t in file.tensors for job in self._jobs(t, out))
        for done in chain.from_iterable(workers.run(gathered(jobs))):
            name = done.writing.tensor.name
            if done.errors is not None:
                self.errors.setdefault(name, Errors()).add(done.errors)
            self._done += done.nbytes
            if self._progress is not None:
                self._progress(self._done, self._total, name)

    def _jobs(self, writing: Writing, out: Writer) -> Iterator[Callable[[], _Done]]:
        if writing.copied:
            for first in range(0, writing.nbytes, COPY_BYTES):
                yield partial(self._copy, writing, first, min(COPY_BYTES, writing.nbytes - first), out)
            return
        for chunk in cut(*writing.tensor.matrix_shape, None, chunks.CHUNK_BYTES):
            yield partial(_decode, writing, chunk, out)

    def _copy(self, writing: Writing, first: int, count: int, out: Writer) -> _Done:
        data = np.empty(count, np.uint8)
        self._checkpoint.read_into(writing.tensor.name, data, first)
        out.write(writing.tensor.name, data, first)
        return _Done(writing, count)


def _decode(writing: Writing, chunk: Chunk, out: Writer) -> _Done:
    tensor = writing.tensor
    x = tensor.rows(chunk.row, chunk.rows)
    try:
        y = cast(x, numpy_dtype(writing.dtype))
    except ValueError as error:
        path = quote(next(iter(tensor.arrays.values())).path, PATH_LIMIT)
        rows = f"rows {chunk.row} to {chunk.row + chunk.rows}"
        raise ValueError(f"{path}, tensor {quote(tensor.name)}, {rows}: {error}") from None
    out.write(tensor.name, little_endian(y), chunk.row * chunk.cols * y.itemsize)
    return _Done(writing, y.nbytes, cost(x, y) if writing.narrowed else None)


def _index(path: Path, plan: DecompressPlan) -> dict[str, Any]:
    """Return the index of the source over what is written; what else it says stays."""
    index: dict[str, Any] = json.loads(read_json(path, "the index"))
    total = sum(writing.nbytes for writing in plan.tensors)
    names = {writing.tensor.name: file.name for file in plan.files for writing in file.tensors}
    metadata = {**index.get("metadata", {}), "total_size": total}
    return {**index, "metadata": metadata, "weight_map": dict(sorted(names.items()))}


def _report(
    plan: DecompressPlan, target: Path, errors: dict[str, Errors], seconds: float, threads: int
) -> Decompressed:
    total = Errors()
    for each in errors.values():
        total.add(each)
    return Decompressed(
        source=plan.source,
        destination=os.fspath(target),
        tensors=tuple(described(writing, errors.get(writing.tensor.name)) for writing in plan.tensors),
        left_out=plan.left_out,
        source_bytes=plan.source_bytes,
        nbytes=plan.nbytes,
        seconds=seconds,
        threads=threads,
        notes=plan.notes,
        snr_db=total.snr_db if errors else None,
    )


def described(writing: Writing, errors: Errors | None = None) -> DecodedTensor:
    """Return a tensor of a plan as the report has it."""
    t = writing.tensor
    snr = None if errors is None else errors.snr_db
    sizes = writing.source_bytes, writing.nbytes
    kind = t.compressed, writing.copied
    return DecodedTensor(t.name, tuple(t.shape), t.label, writing.dtype, *sizes, *kind, snr)
