"""The files of the output: which tensors are in each, and what writes it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..._version import __version__
from ...files import Checkpoint, FormatError, MakeWriter, Writer, writer_for
from ...files.base import format_of
from ...files.disk.errors import PATH_LIMIT, quote
from ...files.tensor_info import Entry, count_bytes
from ...layouts.base import StoredTensor
from ..recipe import Recipe
from ..streaming.tensors import metadata_of
from .types import OutputFile, TensorPlan

T = TypeVar("T")
SizedEntry = tuple[str, str, tuple[int, ...], int]  # of a header: name, dtype, shape, bytes
_ENTRY = len('"":{"dtype":"","shape":[],"data_offsets":[,]},')  # of a header, without what it says
_OFFSET = 20  # digits of an offset, at most


def maker_of(checkpoint: Checkpoint, target: Path | None) -> MakeWriter:
    """Return what makes the writers of the output: for the suffix of the target, of safetensors in a folder or where
    none is known. ValueError for a suffix that is not written, or for one of a file where the source is a folder."""
    if target is not None and checkpoint.is_folder and format_of(target) is not None:
        said = f"destination {quote(target, PATH_LIMIT)} must be a folder"
        raise ValueError(f"{said}, since the source is one, not a {target.suffix} file")
    if target is None or checkpoint.is_folder:
        target = Path("model.safetensors")
    return writer_for(target, checkpoint.folder / checkpoint.shards[0])


def names_of_files(checkpoint: Checkpoint, shards: Sequence[str]) -> dict[str, str]:
    """Return the names of output files by those of the source: the same, but in a folder of another format, which
    becomes one of safetensors."""
    if not checkpoint.is_folder or all(shard.endswith(".safetensors") for shard in shards):
        return {shard: shard for shard in shards}
    return {shard: file_name(number, len(shards)) for number, shard in enumerate(shards)}


def plan_files(
    checkpoint: Checkpoint, plans: list[TensorPlan], recipe: Recipe, config: dict[str, Any], target: Path | None
) -> Iterator[OutputFile[TensorPlan]]:
    """Plan the files of the source, without those that nothing is left of; or others of max_shard_size."""
    make = _with_advice(maker_of(checkpoint, target), target)
    entries = {t.name: t.layout.entry(t.shape) for t in plans}
    ours = metadata_of({name: entry for name, entry in entries.items() if entry is not None})
    more = ours | _provenance(recipe)
    # transformers opens files without metadata, but refuses those whose metadata have no format
    usual = {"format": "pt"} if checkpoint.config is not None or not ours else {}
    if checkpoint.config is None and config and config["quant_method"] != "bitsandbytes":
        more["quantization_config"] = json.dumps(config, sort_keys=True)
    limit = recipe.max_shard_size
    if limit is None:
        by_file = defaultdict(list)
        for each in plans:
            by_file[each.info.path].append(each)
        paths = {shard: checkpoint.folder / shard for shard in checkpoint.shards if by_file[checkpoint.folder / shard]}
        for shard, name in names_of_files(checkpoint, list(paths)).items():
            metadata = usual | checkpoint.readers[shard].metadata | more
            group = by_file[paths[shard]]
            yield plan_file(name, group, _entries(group), metadata, make, paths[shard])
        return
    if not checkpoint.is_folder:
        source = quote(checkpoint.path, PATH_LIMIT)
        raise ValueError(f"{source}: max_shard_size must not be given for one file, but for a model folder")
    metadata = usual | checkpoint.metadata | more
    groups = by_size(plans, _sized_entries, header_begin(metadata), limit)
    for number, group in enumerate(groups):
        name = file_name(number, len(groups))
        yield plan_file(name, group, _entries(group), metadata, make, checkpoint.folder / name)


def plan_file(
    name: str,
    tensors: Sequence[T],
    entries: Iterable[Entry],
    metadata: Mapping[str, str],
    make: MakeWriter,
    source: Path,
) -> OutputFile[T]:
    """Return the plan of one file. entries: what the tensors become in it. source: for messages."""
    try:
        writer = make(entries, metadata)
    except ValueError as error:
        raise ValueError(f"{quote(source, PATH_LIMIT)}: {error}") from None
    return OutputFile(name, tuple(tensors), writer)


def _with_advice(make: MakeWriter, target: Path | None) -> MakeWriter:
    """Return the same; where the target is a copy of the source with other values, errors say how it could be one."""
    found = None if target is None else format_of(target)
    if found is None or found.writer is not None:
        return make

    def with_advice(entries: Iterable[Entry], metadata: Mapping[str, str]) -> Writer:
        try:
            return make(entries, metadata)
        except FormatError:
            raise
        except ValueError as error:
            advice = "give simulate=True to write rounded weights as floats, or a destination that ends in .safetensors"
            raise ValueError(f"{error}; {advice}") from None

    return with_advice


def _entries(plans: Iterable[TensorPlan]) -> Iterator[StoredTensor]:
    return (each for plan in plans for each in plan.arrays().values())


def _sized_entries(plan: TensorPlan) -> Iterator[SizedEntry]:
    for each in plan.arrays().values():
        yield *each, count_bytes(each.dtype, each.shape)


def _provenance(recipe: Recipe) -> dict[str, str]:
    """Return what made a file, for its metadata: the same on every machine and at every time."""
    return {"quantrim_version": __version__, "quantrim_recipe": recipe.to_toml()}


def oversize_notes(files: Sequence[tuple[str, int]], limit: int | None, said: str) -> Iterator[str]:
    """Note files that are larger than they should be, of one tensor each. files: (its name, bytes)."""
    found = [(size, name) for name, size in files if limit is not None and size > limit]
    if found:
        size, name = max(found)
        are = "1 file of one tensor is" if len(found) == 1 else f"{len(found)} files of one tensor each are"
        yield f"{are} larger than {said} {limit:,}, since tensors stay whole: {size:,} bytes with {quote(name)}"


def by_size(items: Iterable[T], entries: Callable[[T], Iterable[SizedEntry]], begin: int, limit: int) -> list[list[T]]:
    """Group items in order by size: files of at most `limit` bytes; one that is larger is a group of its own.

    entries: what an item becomes in a header. begin: bytes of a header that holds none."""
    groups: list[list[T]] = []
    room = -1
    for item in items:
        needed = 0
        for name, dtype, shape, nbytes in entries(item):
            needed += nbytes + _ENTRY + len(json.dumps(name, ensure_ascii=False).encode()) + len(dtype)
            needed += 2 * _OFFSET + len(json.dumps(shape))
        if needed > room:
            room = limit - begin
            groups.append([])
        groups[-1].append(item)
        room -= needed
    return groups


def file_name(number: int, count: int) -> str:
    """Name a file of the output, counted from 0.

    >>> file_name(1, 3), file_name(0, 1)
    ('model-00002-of-00003.safetensors', 'model.safetensors')
    """
    return "model.safetensors" if count == 1 else f"model-{number + 1:05}-of-{count:05}.safetensors"


def header_begin(metadata: Mapping[str, str]) -> int:
    """Bound the bytes of a header without tensors."""
    return 16 + len(json.dumps({"__metadata__": metadata}, ensure_ascii=False).encode())
