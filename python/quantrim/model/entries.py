"""What the metadata of a file says of tensors in our own layouts: one JSON object, written here and read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..files import Checkpoint, FormatError, strict_json

KEY = "quantrim_storage"
VERSION = 1


def metadata_of(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The metadata of files that hold these tensors, by name; every shard names all, so that parts stay readable."""
    if not entries:
        return {}
    return {KEY: json.dumps({"version": VERSION, "tensors": entries}, separators=(",", ":"), sort_keys=True)}


def entries_of(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """The entries by tensor name. FormatError for what is no such object; an entry's own keys are its layout's."""
    text = checkpoint.metadata.get(KEY)
    if text is None:
        return {}
    path = checkpoint.path
    found = strict_json.parse(text.encode("utf-8", "surrogatepass"), path, KEY)
    if not isinstance(found, dict) or set(found) != {"version", "tensors"}:
        raise FormatError(f"{KEY} must be an object with version and tensors", path=path, found=found)
    if found["version"] != VERSION or isinstance(found["version"], (bool, float)):
        raise FormatError(f"{KEY} must have version {VERSION}", path=path, found=found["version"])
    tensors = found["tensors"]
    if not isinstance(tensors, dict):
        raise FormatError(f"tensors of {KEY} must be an object", path=path, found=tensors)
    for name, entry in tensors.items():
        if not isinstance(entry, dict):
            raise FormatError(f"{KEY} must have an object for each tensor", path=path, tensor=name, found=entry)
    return tensors
