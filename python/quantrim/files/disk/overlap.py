"""Whether a target would destroy what is being read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from .descriptors import named_path
from .errors import PATH_LIMIT, quote


def refuse_same_file(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    name: str = "target",
) -> None:
    """ValueError if writing `target` would touch a source: the same path, a hard or symbolic link to it, a
    file in a source folder, or a folder that holds a source. Opens nothing. name: of the target, for the message."""
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    target = named_path(target, name)
    real_target = Path(os.path.realpath(target))
    for each in sources:
        source = named_path(each, "source")
        real = Path(os.path.realpath(source))
        said = f"{name} {quote(target, PATH_LIMIT)} must not be"
        if real == real_target:
            raise ValueError(f"{said} the source {quote(source, PATH_LIMIT)}")
        if real in real_target.parents and real.is_dir():
            raise ValueError(f"{said} inside the source folder {quote(source, PATH_LIMIT)}")
        if real_target in real.parents:
            raise ValueError(f"{said} the folder that holds the source {quote(source, PATH_LIMIT)}")
        for path in _files_of(source):
            if _same(path, target):
                raise ValueError(f"{said} a link to the source file {quote(path, PATH_LIMIT)}")


def _files_of(source: Path) -> Iterator[Path]:
    """The source itself and, if it is a folder, the files in it."""
    yield source
    if source.is_dir():
        yield from sorted(source.iterdir())


def _same(path: Path, target: Path) -> bool:
    try:
        return path.samefile(target)
    except OSError:  # one of them does not exist
        return False
