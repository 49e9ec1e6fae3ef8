"""What a model folder holds beside its weights: which files come along with rewritten ones, and which do not.

Links are followed, to files and to folders: who made the folder, or let a program make it, chose where they lead. What
comes from strangers are the names inside files, such as the shards of an index; those never leave the folder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .base import format_of
from .byteplanes.container import LISTING
from .disk.descriptors import kind_of
from .disk.errors import FormatError
from .disk.strict_json import parse
from .disk.temporaries import PART
from .folder import read_json

LINKS_LIMIT = 1000  # links to folders that are followed: some that lead to each other have more ways than can be gone
_SAFETENSORS = ".safetensors"
_OTHER_WEIGHTS = re.compile(
    r"\.(pkl|pickle|h5|hdf5|keras|msgpack|onnx|onnx_data|onnx\.data|gguf|ggml|npz|ot|tflite)$"
    r"|(^|/)openvino_model[^/]*\.xml$",  # of no use without its .bin
    re.IGNORECASE,
)
_INDEX = re.compile(r"\.index\.json$", re.IGNORECASE)
_OF_OTHER_TOOLS = {
    ".git", ".hg", ".svn", ".cache", ".huggingface", ".locks", ".venv", ".vscode", ".idea", ".ipynb_checkpoints",
    "__pycache__", ".DS_Store", "Thumbs.db",
}  # fmt: skip


@dataclass
class SideFiles:
    """Files of a folder, by their paths in it ("1_Pooling/config.json"), sorted.

    names: those that come along. weights: of these the ones that hold weights, with their bytes; they stay as they are.
    others: weights that do not come along, being no part of the checkpoint, with their bytes. odd: what is no file, and
    what it is instead. skipped: files and folders of other tools.
    """

    names: list[str] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def find_side_files(folder: Path, checkpoint: set[str]) -> SideFiles:
    """The files beside those of the checkpoint: its shards and its index. OSError for a folder that cannot be read.

    Weights in other formats are `others`, but for those of a module that modules.json names: its reader needs them.
    """
    found = SideFiles()
    modules = _modules(folder)
    for name, size in sorted(_walk(folder, found)):
        if name in checkpoint or name == LISTING:
            continue
        parent, _, _ = name.rpartition("/")
        if name.endswith(_SAFETENSORS):
            (found.weights if parent else found.others)[name] = size
        elif _OTHER_WEIGHTS.search(name) or _may_be_a_model(name):
            of_module = any(name.startswith(f"{module}/") for module in modules)
            (found.weights if of_module else found.others)[name] = size
        elif _INDEX.search(name) and not (parent and name.endswith(f"{_SAFETENSORS}.index.json")):
            found.others[name] = size
        if name not in found.others:
            found.names.append(name)
    found.skipped.sort()
    return found


def _may_be_a_model(name: str) -> bool:
    """Return whether the suffix is of a format that folders have their weights in."""
    found = format_of(Path(name))
    return found is not None and found.weights is not None


def _walk(folder: Path, found: SideFiles) -> Iterator[tuple[str, int]]:
    """(path in the folder, bytes) of each regular file; what is none is noted in `found`."""
    links = 0
    waiting: list[tuple[Path, str, tuple[str, ...]]] = [(folder, "", (os.path.realpath(folder),))]
    while waiting:
        path, prefix, above = waiting.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.name in _OF_OTHER_TOOLS or entry.name.endswith(PART):
                    found.skipped.append(name)
                    continue
                try:
                    status = entry.stat()
                except OSError as error:
                    found.odd[name] = f"a link that leads nowhere: {error.strerror}"
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield name, status.st_size
                elif not stat.S_ISDIR(status.st_mode):
                    found.odd[name] = kind_of(status.st_mode)
                else:
                    real = os.path.realpath(entry.path)
                    links += entry.is_symlink()
                    if links > LINKS_LIMIT:
                        raise FormatError(f"holds more than {LINKS_LIMIT} links to folders", path=folder)
                    if any(os.path.commonpath((real, each)) == real for each in above):
                        found.odd[name] = "a link to a folder that it is in"
                    else:
                        waiting.append((path / entry.name, f"{name}/", (*above, real)))


def _modules(folder: Path) -> set[str]:
    """The subfolders that modules.json (of sentence-transformers) names; none where that is not what it holds."""
    path = folder / "modules.json"
    try:
        listed = parse(read_json(path, "modules.json"), path, "modules.json")
    except (OSError, FormatError):
        return set()
    paths = [each.get("path") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return {path.strip("/") for path in paths if isinstance(path, str)} - {""}
