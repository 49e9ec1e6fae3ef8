"""What a bad file says about itself."""

from __future__ import annotations

import os
import reprlib

NAME_LIMIT = 200  # characters of a tensor name in a message: some are a megabyte long
PATH_LIMIT = 4096  # a path is at most this long, and useless when cut
_ABSENT = object()

_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = _shorten.maxlong = NAME_LIMIT


def quote(name: object, limit: int = NAME_LIMIT) -> str:
    """The repr of a name or path, at most `limit` characters of it. Everything that could move a
    terminal's cursor or hide text (ESC, newline, NUL, right-to-left marks, surrogates) is escaped."""
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if not isinstance(name, (str, bytes)):
        return _shorten.repr(name)
    text = repr(name[:limit])
    if len(name) <= limit and len(text) <= limit + 2:
        return text
    return f"{text[: limit + 1]}...{text[0]}"


class FormatError(ValueError):
    """A file is not what its format says it must be. The message holds the path, the tensor, the byte
    offset in the file, what was found and what is allowed, as far as they are known."""

    def __init__(
        self,
        problem: str,
        *,
        path: str | os.PathLike[str] | None = None,
        tensor: str | None = None,
        offset: int | None = None,
        found: object = _ABSENT,
        allowed: str | None = None,
    ) -> None:
        self.path = None if path is None else os.fspath(path)
        self.tensor = tensor
        self.offset = offset
        where = [] if path is None else [quote(path, PATH_LIMIT)]
        if tensor is not None:
            where.append(f"tensor {quote(tensor)}")
        if offset is not None:
            where.append(f"byte {offset}")
        details = [] if found is _ABSENT else [f"found {quote(found)}"]
        if allowed is not None:
            details.append(f"allowed {allowed}")
        message = ": ".join([", ".join(where), problem] if where else [problem])
        super().__init__(f"{message} ({'; '.join(details)})" if details else message)
