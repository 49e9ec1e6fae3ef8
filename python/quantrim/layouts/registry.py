"""The layouts: which there are, what of a file is in which, and what they ask of its config.

One row of each table for a layout; nothing else asks which layout it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from . import bitsandbytes, codebook, compressed_sparse, compressed_tensors, sparse_bitmask
from .base import WEIGHT, Catalog, Found, Infos, Layout, LayoutError, Shape, WritableLayout, infos_of
from .codebook import Codes
from .sparse_bitmask import Sparse

Entry = Callable[[Mapping[str, Any], Infos], tuple[Layout, Shape]]

# by name in the file's metadata: what makes a layout of an entry, and its arrays
OWN: dict[str, tuple[Entry, tuple[str, ...]]] = {
    Codes.family: (codebook.from_entry, codebook.ARRAYS),
    Sparse.family: (sparse_bitmask.from_entry, sparse_bitmask.ARRAYS),
}
_CONFIGS = (compressed_tensors.config_of, bitsandbytes.config_of)
_NOTES = (compressed_tensors.notes_of,)
PRIVATE_NOTES = (Sparse.note, Codes.note)  # on layouts that only quantrim reads


def find(catalog: Catalog) -> Iterator[Found]:
    """Yield the tensors of a file that are not kept as they are. LayoutError where their arrays do not fit."""
    found = {each.name: each for finder in FINDERS for each in finder(catalog)}
    taken = {name for each in found.values() for name in each.arrays.values()}
    yield from found.values()
    yield from compressed_sparse.find(catalog, taken)


def find_own(catalog: Catalog) -> Iterator[Found]:
    """Yield the tensors that the file's metadata speaks of. An entry none of whose arrays is there is that of another
    shard."""
    for name, entry in catalog.entries.items():
        if entry.get("layout") not in OWN:
            raise LayoutError(f"must have a layout among {', '.join(OWN)}, not {entry.get('layout')!r}", name)
        make, names = OWN[str(entry["layout"])]
        module = name.removesuffix(WEIGHT)
        arrays = {each: f"{module}.{each}" for each in names if f"{module}.{each}" in catalog.tensors}
        if not arrays:
            continue
        if name in catalog.tensors:
            raise LayoutError("must not be there beside its arrays", name)
        try:
            yield Found(name, *make(entry, infos_of(catalog, arrays)), arrays)
        except (ValueError, TypeError) as error:
            raise LayoutError(str(error), name) from None


FINDERS = (compressed_tensors.find, find_own, bitsandbytes.find)


def config_of(
    layouts: Mapping[str, WritableLayout],
    others: Iterable[str] = (),
    absent: Iterable[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the `quantization_config` for config.json; empty where no reader of one opens what is written.

    layouts: of the compressed weight of each module. others: modules whose matrices stay floats. absent: ends of names
    of linear modules that a reader may have and the checkpoint has not, "*" for numbers. renamed: module name -> the
    end of the name that a reader has for it.
    """
    others, absent = list(others), list(absent)
    found = (make(layouts, others, absent, renamed or {}) for make in _CONFIGS)
    return next(filter(None, found), {})


def notes_on(layouts: Collection[WritableLayout]) -> Iterator[str]:
    """Yield what some readers do not open of these layouts."""
    for notes in _NOTES:
        yield from notes(layouts)
