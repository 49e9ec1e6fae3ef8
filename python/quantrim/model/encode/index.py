"""The index over the files that are written: what the source's says beside its weight_map, as far as it still holds."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from ...files import Checkpoint, FormatError, TensorInfo
from ...files.byteplanes.reader import header_of
from ...files.folder import INDEX_SUFFIX
from ...files.safetensors.header import HEADER_LIMIT, parse_header

HEADER = "quantrim_header"  # in the metadata of an index over the pieces of one file: the header of that file


def index_name(checkpoint: Checkpoint) -> str:
    """Return the name of the index over what is written: that of the source, if it has one of safetensors."""
    if checkpoint.path.name.endswith(INDEX_SUFFIX):
        return checkpoint.path.name
    names = sorted(path.name for path in checkpoint.folder.glob(f"*{INDEX_SUFFIX}"))
    usual = f"model{INDEX_SUFFIX}"
    return names[0] if len(names) == 1 else usual


def index_of(
    checkpoint: Checkpoint,
    files: Mapping[str, str],
    total: int,
    left: Iterable[TensorInfo],
    header: bytes | None = None,
) -> dict[str, Any]:
    """Encode the index as JSON.

    files: tensor of the output -> its file. total: bytes of all. left: the tensors of the source that are left, in
    the shapes that they have now. header: that of one file of the same tensors, for `whole_header`.

    total_parameters loses the elements that are gone; all else is as in the source.
    """
    fields = checkpoint.index_fields
    metadata = {**fields.get("metadata", {}), "total_size": total}
    metadata.pop(HEADER, None)
    stated = metadata.get("total_parameters")
    if type(stated) is int:
        metadata["total_parameters"] = stated + sum(t.size for t in left) - checkpoint.elements
    if header is not None:
        metadata[HEADER] = base64.b64encode(zlib.compress(header)).decode("ascii")
    return {**fields, "metadata": metadata, "weight_map": dict(sorted(files.items()))}


def whole_header(checkpoint: Checkpoint, tensors: Iterable[TensorInfo]) -> tuple[bytes, dict[str, int]] | None:
    """Return the header (with its length) of the one file that held these tensors, and where each begins in it.

    Of the checkpoint's only file, or of one that was split, where the index has kept it. None where none is known, or
    where it is not that of these tensors.
    """
    wanted = {t.name: (t.dtype, t.shape) for t in tensors}
    if len(checkpoint.shards) > 1:
        header = _unpacked(checkpoint.index_fields.get("metadata", {}).get(HEADER))
    else:
        header = header_of(checkpoint.readers[checkpoint.shards[0]])
    size = len(header) + sum(checkpoint.tensors[name].nbytes for name in wanted)
    try:
        found, metadata = parse_header(header[8:], size, checkpoint.path)
    except FormatError:
        return None
    if {t.name: (t.dtype, t.shape) for t in found.values()} != wanted or metadata != checkpoint.metadata:
        return None
    return header, {t.name: t.offset for t in found.values()}


def _unpacked(text: Any) -> bytes:
    """Unpack the header that an index has kept; empty where it is none."""
    try:
        raw = base64.b64decode(text, validate=True)
        return zlib.decompressobj().decompress(raw, 8 + HEADER_LIMIT)
    except (TypeError, ValueError, binascii.Error, zlib.error):
        return b""
