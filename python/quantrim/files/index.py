"""Which files of a model folder hold its weights: the index, and the links that may be followed."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import strict_json
from .descriptors import open_regular, read_exactly
from .errors import FormatError, quote
from .safetensors import HEADER_LIMIT, TensorInfo
from .sniff import what_a_folder_has

INDEX_SUFFIX = ".safetensors.index.json"
JSON_LIMIT = HEADER_LIMIT  # bytes of an index or a config.json

# weights in other formats, and what belongs to them: not copied beside a rewritten model
_OTHER_WEIGHTS = re.compile(
    r"\.(safetensors|bin|pt|pth|pkl|pickle|ckpt|h5|hdf5|keras|msgpack|onnx|onnx_data|onnx\.data|gguf|ggml|npz|ot|tflite)$"
    r"|\.index\.json$",
    re.IGNORECASE,
)
_SHARD = re.compile(r"(?P<series>.*-)\d+(?P<total>-of-\d+\.safetensors)$")


@dataclass(frozen=True)
class ModelFiles:
    """What a path names: shards by file name in `folder`, and the tensor -> shard map of the index."""

    folder: Path
    shards: list[str]
    weight_map: dict[str, str] | None = None
    index: Path | None = None
    total_size: Any = None
    side_files: list[str] = field(default_factory=list)


def find_files(path: Path) -> ModelFiles:
    """The shards that `path` stands for: a .safetensors file, a model folder, or the index in one."""
    if path.name.endswith(INDEX_SUFFIX):
        return _indexed_folder(path.parent, path, _names(path.parent))
    if not path.is_dir():
        return ModelFiles(path.parent, [path.name])
    names = _names(path)
    index = _choose(path, names, INDEX_SUFFIX, f"model{INDEX_SUFFIX}", "index files")
    if index is not None:
        return _indexed_folder(path, path / index, names)
    shard = _choose(path, names, ".safetensors", "model.safetensors", ".safetensors files and no index")
    if shard is None:
        holds = f"it holds {_listed(names)}{what_a_folder_has(path, names)}"
        raise FormatError(f"the folder must hold a .safetensors file; {holds}", path=path)
    _warn_of_unread(path, names, [shard])
    folder = _Folder(path)
    folder.check(shard)
    return ModelFiles(path, [shard], side_files=folder.side_files(names))


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
    jail = _Folder(folder)
    jail.check(index.name)
    weight_map, total_size = _read_index(index)
    shards = sorted(set(weight_map.values()))
    present = set(names)
    for shard in shards:
        if shard not in present:
            raise FormatError(f"shard {quote(shard)} of the index is missing from the folder", path=index)
        jail.check(shard)
    _check_series(index, names, shards)
    _warn_of_unread(folder, names, shards)
    return ModelFiles(folder, shards, weight_map, index, total_size, jail.side_files(names))


def read_json(path: Path, what: str) -> bytearray:
    """The bytes of a JSON file of bounded size."""
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if size > JSON_LIMIT:
            raise FormatError(f"{what} must be at most {JSON_LIMIT} bytes, not {size}", path=path)
        return read_exactly(fd, size, 0, path)
    finally:
        os.close(fd)


def _read_index(path: Path) -> tuple[dict[str, str], Any]:
    index = strict_json.parse(read_json(path, "the index"), path, "the index")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
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
    return weight_map, metadata.get("total_size")


def _is_plain(name: str) -> bool:
    """A file name alone on every system: no separators, no drive, no control characters."""
    return name not in ("", ".", "..") and not re.search(r"[/\\\x00-\x1f\x7f]|^[A-Za-z]:", name)


def _check_series(index: Path, names: Iterable[str], shards: Iterable[str]) -> None:
    """A file that counts itself among the index's shards (the same "-of-00005") must be one of them."""
    matches = (_SHARD.match(shard) for shard in shards)
    series = {match.group("series", "total") for match in matches if match}
    for name in sorted(set(names) - set(shards)):
        match = _SHARD.match(name)
        if match and match.group("series", "total") in series:
            raise FormatError(f"shard {quote(name)} is in the folder but not in the index", path=index)


def _warn_of_unread(folder: Path, names: Iterable[str], shards: Iterable[str]) -> None:
    others = set(names) - set(shards)
    unread = [name for name in others if name.endswith(".safetensors") and not name.startswith(".")]
    if unread:
        text = f"{quote(folder)}: {_listed(unread)} not in the checkpoint: neither read nor copied"
        warnings.warn(text, UserWarning, stacklevel=4)


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    shown = ", ".join(quote(name) for name in names[:5]) or "nothing"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


class _Folder:
    """A folder from a stranger: links in it may lead to the folder itself or, in the cache of the Hugging
    Face hub, from `<repository>/snapshots/<revision>` to `<repository>/blobs`; nowhere else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        real = Path(os.path.realpath(path))
        self.roots = [real]
        for revision in (real, *real.parents):
            if revision.parent.name == "snapshots":
                self.roots.append(revision.parent.parent / "blobs")
                break

    def check(self, name: str) -> None:
        path = self.path / name
        if not path.is_symlink():
            return
        real = Path(os.path.realpath(path))
        if not any(root in real.parents for root in self.roots):
            problem = "a link may not lead out of the model folder"
            inside = " or ".join(quote(root) for root in self.roots)
            raise FormatError(problem, path=path, found=os.fspath(real), allowed=f"inside {inside}")

    def side_files(self, names: Iterable[str]) -> list[str]:
        """The files to copy beside rewritten weights: config, tokenizer, licence; no folders, nothing
        hidden."""
        kept = []
        for name in sorted(names):
            if name.startswith(".") or _OTHER_WEIGHTS.search(name) or not (self.path / name).is_file():
                continue
            self.check(name)
            kept.append(name)
        return kept


def check_membership(files: ModelFiles, shards: Mapping[str, Mapping[str, TensorInfo]]) -> None:
    """Every tensor of every shard is in the index under that shard, and the other way round."""
    owner: dict[str, str] = {}
    for shard, tensors in shards.items():
        for name, tensor in tensors.items():
            if name in owner:
                problem = f"is in two shards, {quote(owner[name])} and {quote(shard)}"
                raise FormatError(problem, path=tensor.path, tensor=name, offset=tensor.offset)
            owner[name] = shard
    if files.weight_map is None:
        return
    for name, shard in files.weight_map.items():
        if owner.get(name) != shard:
            found = f", but in {quote(owner[name])}" if name in owner else ""
            problem = f"the index has it in shard {quote(shard)}: it is not there{found}"
            raise FormatError(problem, path=files.index, tensor=name)
    for name, shard in owner.items():
        if name not in files.weight_map:
            problem = f"is in shard {quote(shard)} but not in the index"
            raise FormatError(problem, path=files.index, tensor=name)


def check_total_size(files: ModelFiles, total: int) -> None:
    """Warn of an index whose total_size is not the sum of the tensors: often wrong, never needed."""
    stated = files.total_size
    if stated is not None and (isinstance(stated, bool) or stated != total):
        text = f"{quote(files.index)}: total_size is {quote(stated)}, the tensors are {total} bytes"
        warnings.warn(text, UserWarning, stacklevel=4)
