"""The files of the output, and where each tensor begins in them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ..._version import __version__
from ...files import Checkpoint, encode_header
from ...files.disk.errors import PATH_LIMIT, quote
from ...files.tensor_info import count_bytes
from ..recipe import Recipe
from ..streaming.tensors import metadata_of
from .types import OutputFile, TensorPlan

T = TypeVar("T")
Entry = tuple[str, str, tuple[int, ...], int]  # of a header: name, dtype, shape, bytes
_ENTRY = len('"":{"dtype":"","shape":[],"data_offsets":[,]},')  # of a header, without what it says
_OFFSET = 20  # digits of an offset, at most


def plan_files(
    checkpoint: Checkpoint, plans: list[TensorPlan], recipe: Recipe, config: dict[str, Any]
) -> Iterator[OutputFile]:
    """Plan the files of the source, without those that nothing is left of; or others of max_shard_size."""
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
        for shard in checkpoint.shards:
            path = checkpoint.folder / shard
            if by_file[path]:
                yield _plan_shard(checkpoint, shard, by_file[path], usual | checkpoint.readers[shard].metadata | more)
        return
    if not checkpoint.is_folder:
        source = quote(checkpoint.path, PATH_LIMIT)
        raise ValueError(f"{source}: max_shard_size must not be given for one file, but for a model folder")
    metadata = usual | checkpoint.metadata | more
    groups = by_size(plans, _entries, header_begin(metadata), limit)
    for number, group in enumerate(groups):
        yield _plan_shard(checkpoint, file_name(number, len(groups)), group, metadata)


def _entries(plan: TensorPlan) -> Iterator[Entry]:
    for each in plan.arrays().values():
        yield *each, count_bytes(each.dtype, each.shape)


def _plan_shard(checkpoint: Checkpoint, shard: str, plans: list[TensorPlan], metadata: dict[str, str]) -> OutputFile:
    path = checkpoint.folder / shard
    entries = (each for plan in plans for each in plan.arrays().values())
    try:
        header, places = encode_header(entries, metadata)
    except ValueError as error:
        raise ValueError(f"{quote(path, PATH_LIMIT)}: {error}") from None
    end = max((end for _, end in places.values()), default=0)
    return OutputFile(
        shard,
        tuple(plans),
        header,
        {name: len(header) + begin for name, (begin, _) in places.items()},
        len(header) + end,
    )


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


def by_size(items: Iterable[T], entries: Callable[[T], Iterable[Entry]], begin: int, limit: int) -> list[list[T]]:
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
