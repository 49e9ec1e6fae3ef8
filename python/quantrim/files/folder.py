"""Which files of a model folder hold its weights, and which tensors of them are the model's: what the index says.

The index comes from strangers: its names are taken for files of the folder, never for paths that lead out of it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .base import FORMATS
from .disk.errors import FormatError, quote
from .disk.source_file import SourceFile
from .disk.strict_json import parse
from .sniff import what_a_folder_has
from .tensor_info import TensorInfo

INDEX_SUFFIX = ".safetensors.index.json"
JSON_LIMIT = 100_000_000  # bytes of an index or a config.json

_BOM = b"\xef\xbb\xbf"
_NAMED = 3  # names in a warning


@dataclass(frozen=True)
class ModelFiles:
    """What a path names: shards by file name in `folder`, the tensor -> shard map of the index, and what else that
    says (`fields`)."""

    folder: Path
    shards: list[str]
    weight_map: dict[str, str] | None = None
    index: Path | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def find_files(path: Path) -> ModelFiles:
    """Find the shards that `path` stands for: one file, a model folder, or the index in one.

    Of a folder these are what a safetensors index names, or its only safetensors file, or else the weights of another
    format under their usual name (pytorch_model.bin), with their index if they have one.
    """
    if path.name.endswith(".index.json"):
        return _indexed_folder(path.parent, path, _names(path.parent))
    if not path.is_dir():
        return ModelFiles(path.parent, [path.name])
    names = _names(path)
    index = _choose(path, names, INDEX_SUFFIX, f"model{INDEX_SUFFIX}", "index files")
    if index is not None:
        return _indexed_folder(path, path / index, names)
    shard = _choose(path, names, ".safetensors", "model.safetensors", ".safetensors files and no index")
    if shard is not None:
        _warn_of_unread(path, names, [shard])
        return ModelFiles(path, [shard])
    for name in (row.weights for row in FORMATS.values() if row.weights):
        if f"{name}.index.json" in names:
            return _indexed_folder(path, path / f"{name}.index.json", names)
        if name in names:
            return ModelFiles(path, [name])
    holds = f"it holds {_listed(names)}{what_a_folder_has(path, names)}"
    raise FormatError(f"the folder must hold a .safetensors file; {holds}", path=path)


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def _choose(folder: Path, names: Iterable[str], suffix: str, preferred: str, what: str) -> str | None:
    found = sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))
    if preferred in found:
        return preferred
    if len(found) > 1:
        raise FormatError(f"the folder holds {len(found)} {what}: {_listed(found)}; name one", path=folder)
    return found[0] if found else None


def _indexed_folder(folder: Path, index: Path, names: list[str]) -> ModelFiles:
    weight_map, fields = _read_index(index)
    shards = sorted(set(weight_map.values()))
    present = set(names)
    for shard in shards:
        if shard not in present:
            raise FormatError(f"shard {quote(shard)} of the index is missing from the folder", path=index)
    _warn_of_unread(folder, names, shards)
    return ModelFiles(folder, shards, weight_map, index, fields)


def read_json(path: Path, what: str) -> bytearray:
    """Return the bytes of a JSON file of bounded size."""
    file = SourceFile(path)
    try:
        if file.size > JSON_LIMIT:
            raise FormatError(f"{what} must be at most {JSON_LIMIT} bytes, not {file.size}", path=path)
        return file.read(file.size, 0)
    finally:
        file.close()


def _read_index(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    raw = read_json(path, "the index")
    begin = len(_BOM) if raw.startswith(_BOM) else 0
    index = parse(raw[begin:], path, "the index", offset=begin)
    weight_map = index.pop("weight_map", None) if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError("the index must be an object with a weight_map that names tensors", path=path)
    for shard in {value for value in weight_map.values() if isinstance(value, str)}:
        if not _is_plain(shard):
            allowed = "the name of a file in the same folder"
            raise FormatError("bad shard name in weight_map", path=path, found=shard, allowed=allowed)
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise FormatError("the shard in weight_map must be a string", path=path, tensor=name, found=shard)
    metadata = index.get("metadata", {})
    if not isinstance(metadata, dict):
        raise FormatError("metadata of the index must be an object", path=path, found=metadata)
    return weight_map, index


def _is_plain(name: str) -> bool:
    """A file name alone on every system: no separators, no drive, no control characters."""
    return name not in ("", ".", "..") and not re.search(r"[/\\\x00-\x1f\x7f]|^[A-Za-z]:", name)


def _warn_of_unread(folder: Path, names: Iterable[str], shards: Iterable[str]) -> None:
    others = set(names) - set(shards)
    unread = [name for name in others if name.endswith(".safetensors") and not name.startswith(".")]
    if unread:
        text = f"{quote(folder)}: {_listed(unread)} not in the checkpoint: not read"
        warnings.warn(text, UserWarning, stacklevel=4)


def _listed(names: Iterable[str], most: int = 5) -> str:
    names = sorted(names)
    shown = ", ".join(quote(name) for name in names[:most]) or "nothing"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def tensors_of(files: ModelFiles, shards: Mapping[str, Mapping[str, TensorInfo]]) -> dict[str, TensorInfo]:
    """The tensors of the model, those that the index lists, in the order of the files.

    shards: what each file holds. FormatError for a listed tensor that none of them holds, or several but not the one
    listed; UserWarning where the two disagree otherwise.
    """
    if files.weight_map is None:
        (tensors,) = shards.values()
        return dict(tensors)
    place = _places(files, files.weight_map, shards)
    return {name: tensor for shard, held in shards.items() for name, tensor in held.items() if place.get(name) == shard}


def _places(
    files: ModelFiles, weight_map: dict[str, str], shards: Mapping[str, Mapping[str, TensorInfo]]
) -> dict[str, str]:
    """The shard that each tensor is read from: the one listed, or the only one that has it."""
    elsewhere: dict[str, list[str]] = {}
    unlisted: set[str] = set()
    for shard, held in shards.items():
        for name in held:
            listed = weight_map.get(name)
            if listed is None:
                unlisted.add(name)
            elif listed != shard:
                elsewhere.setdefault(name, []).append(shard)
    place = dict(weight_map)
    moved = []
    for name, shard in weight_map.items():
        if name in shards[shard]:
            continue
        others = elsewhere.get(name, [])
        if len(others) != 1:
            found = f", but in {_listed(others)}" if others else ""
            problem = f"the index has it in shard {quote(shard)}: it is not there{found}"
            raise FormatError(problem, path=files.index, tensor=name)
        place[name] = others[0]
        moved.append(name)
    twice = elsewhere.keys() - moved
    said = [
        f"{'1 tensor is' if len(names) == 1 else f'{len(names)} tensors are'} {what} ({_listed(names, _NAMED)})"
        for names, what in (
            (unlisted, "not in it and not read"),
            (twice, "in another shard, too, and not read from there"),
            (moved, "not where it says, but in one other shard, and read from there"),
        )
        if names
    ]
    if said:
        warnings.warn(f"{quote(files.index)} and its shards disagree: {'; '.join(said)}", UserWarning, stacklevel=5)
    return place


def check_total_size(files: ModelFiles, total: int) -> None:
    """Warn of an index whose total_size is not the sum of the tensors: often wrong, never needed."""
    stated = files.fields.get("metadata", {}).get("total_size")
    if stated is not None and (isinstance(stated, bool) or stated != total):
        text = f"{quote(files.index)}: total_size is {quote(stated)}, the tensors are {total} bytes"
        warnings.warn(text, UserWarning, stacklevel=4)
