"""The files of the output, and where each tensor begins in them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..files import Checkpoint, encode_header
from ..files.disk.errors import PATH_LIMIT, quote
from ..files.tensor_info import count_bytes
from .parts import Entry, by_size, header_begin, part_name
from .recipe import Recipe
from .streaming.tensors import metadata_of

if TYPE_CHECKING:
    from .tensor_plan import TensorPlan


@dataclass(frozen=True)
class ShardPlan:
    """One file of the output: its name in a folder, header, and where each stored part begins in it."""

    name: str
    tensors: tuple[TensorPlan, ...]
    header: bytes
    offsets: dict[str, int]
    size: int


def plan_shards(
    checkpoint: Checkpoint, plans: list[TensorPlan], recipe: Recipe, config: dict[str, Any]
) -> Iterator[ShardPlan]:
    """The files of the source, without those that nothing is left of; or others of max_shard_size."""
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
        yield _plan_shard(checkpoint, part_name(number, len(groups)), group, metadata)


def _entries(plan: TensorPlan) -> Iterator[Entry]:
    for each in plan.arrays().values():
        yield *each, count_bytes(each.dtype, each.shape)


def _plan_shard(checkpoint: Checkpoint, shard: str, plans: list[TensorPlan], metadata: dict[str, str]) -> ShardPlan:
    path = checkpoint.folder / shard
    entries = (each for plan in plans for each in plan.arrays().values())
    try:
        header, places = encode_header(entries, metadata)
    except ValueError as error:
        raise ValueError(f"{quote(path, PATH_LIMIT)}: {error}") from None
    end = max((end for _, end in places.values()), default=0)
    return ShardPlan(
        shard,
        tuple(plans),
        header,
        {name: len(header) + begin for name, (begin, _) in places.items()},
        len(header) + end,
    )


def _provenance(recipe: Recipe) -> dict[str, str]:
    """What made a file, for its metadata: the same on every machine and at every time."""
    return {"quantrim_version": __version__, "quantrim_recipe": recipe.to_toml()}
