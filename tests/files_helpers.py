"""Files for the tests of `quantrim.files`, writers to be killed, and the process that kills them.

Run as a script with `serve` it is a server: it reads one JSON request a line, forks, and lets the child write
until it dies as the request says. Forking a process that has imported everything costs milliseconds, so that
every call of a writer can be tried. With a writer and a target it writes once."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import numpy as np
import pytest

from quantrim.files import DTYPES, AtomicFile, AtomicFolder, FormatError, encode_header, open_checkpoint
from quantrim.files.base import Reader
from quantrim.files.disk import atomic
from quantrim.files.disk.errors import quote

OLD = b"old" * 1000
NEW = b"NEW!" * 2500
OLD_FOLDER = {"a.safetensors": OLD, "notes.txt": b"kept until the end"}
NEW_FOLDER = {
    "a.safetensors": NEW, "b.safetensors": NEW[::-1], "sub/x/config.json": b"x", "model.safetensors.index.json": b"{}"
}  # fmt: skip

Snapshot = bytes | dict[str, bytes] | None


# Files


def raw_file(header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of any header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


SMALL = raw_file(
    {"__metadata__": {"format": "pt"}, "a": entry("F32", [2, 1], 0, 8), "b\u00e9": entry("BF16", [3], 8, 14)},
    bytes(range(14)),
)


Tensors = dict[str, np.ndarray[Any, Any]]
NAMES = {np.dtype(dtype): name for name, (_, dtype) in DTYPES.items() if dtype is not None}


def write_tensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    head, offsets = encode_header([(n, NAMES[t.dtype], t.shape) for n, t in tensors.items()], metadata)
    path.write_bytes(head + b"".join(tensors[name].tobytes() for name in offsets))


def write_index(folder: Path, weight_map: Any, **fields: Any) -> Path:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map} | fields))
    return index


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def two_shards(folder: Path) -> Path:
    """A folder of two shards with two tensors each, and an index."""
    folder.mkdir()
    write_tensors(folder / "x-1.safetensors", {"a": floats(2), "b": floats(3)}, {"format": "pt", "only": "1"})
    write_tensors(folder / "x-2.safetensors", {"c": floats(4), "d": floats(5)}, {"format": "mlx"})
    weight_map = {name: f"x-{1 + (name > 'b')}.safetensors" for name in "abcd"}
    write_index(folder, weight_map, metadata={"total_size": 4 * (2 + 3 + 4 + 5)})
    return folder


def read_all(reader: Callable[[Path], Reader], path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors of a file, in its order."""
    model = reader(path)
    try:
        return {name: array_of(model, name) for name in model.tensors}
    finally:
        model.close()


def array_of(model: Reader, name: str) -> np.ndarray[Any, Any]:
    info = model.tensors[name]
    data = np.empty(info.nbytes, np.uint8)
    model.read_into(info, data.data, 0)
    return data.view(info.numpy_dtype).reshape(info.shape)


def refused_by(read: Callable[[Path], object], path: Path, *words: str) -> str:
    """The message: what `read` does is a FormatError with the path and all words, safe to print; nothing stays open."""
    before = open_descriptors()
    with pytest.raises(FormatError) as caught:
        read(path)
    message = str(caught.value)
    assert message.isprintable() and quote(path)[1:-1] in message
    for word in words:
        assert word in message
    assert open_descriptors() == before
    return message


def refused_checkpoint(path: Path, *words: str) -> None:
    """Opening is refused."""
    refused_by(open_checkpoint, path, *words)


def snapshot(path: Path) -> Snapshot:
    """The bytes at a path: of a file, of the files of a folder, or None if there is nothing."""
    if path.is_dir():
        return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if not file.is_dir()}
    return path.read_bytes() if path.is_file() else None


def leftovers(folder: Path) -> list[str]:
    """Temporaries in a folder."""
    return sorted(path.name for path in folder.iterdir() if "quantrim-" in path.name)


def put(path: Path, content: Snapshot) -> None:
    """Make a path hold exactly this."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name, data in content.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def nothing_written(target: Path) -> Iterator[None]:
    """The NW of the error contract: bytes and time of the target as before, no temporary, no descriptor."""
    before = (snapshot(target), target.lstat().st_mtime_ns if os.path.lexists(target) else None)
    names, descriptors = sorted(target.parent.iterdir()), open_descriptors()
    yield
    assert (snapshot(target), target.lstat().st_mtime_ns if os.path.lexists(target) else None) == before
    assert sorted(target.parent.iterdir()) == names
    assert open_descriptors() == descriptors


# Writers: each brings a target from its old state to its new one


def write_atomic(target: Path) -> None:
    with AtomicFile(target, len(NEW)) as file:
        for begin in range(0, len(NEW), 3000):
            file.pwrite(NEW[begin : begin + 3000], begin)


def write_atomic_unsized(target: Path) -> None:
    with AtomicFile(target) as file:
        for begin in range(0, len(NEW), 3000):
            file.write(NEW[begin : begin + 3000])


def write_folder(target: Path) -> None:
    with AtomicFolder(target, overwrite=True) as folder:
        for name, data in NEW_FOLDER.items():
            with folder.file(name, len(data)) as file:
                file.write(data)


def write_naive(target: Path) -> None:
    """The planted bug: the target is written in place."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for begin in range(0, len(NEW), 3000):
        os.pwrite(fd, NEW[begin : begin + 3000], begin)
    os.close(fd)


def write_naive_folder(target: Path) -> None:
    """The planted bug: files are replaced one by one."""
    for name in OLD_FOLDER:
        os.unlink(target / name)  # noqa: PTH108 (os.unlink is what is counted)
    for name, data in NEW_FOLDER.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(target / name, os.O_WRONLY | os.O_CREAT)
        os.pwrite(fd, data, 0)
        os.close(fd)


def write_slowly(target: Path) -> None:
    """Some tens of milliseconds of small writes, for kills at random moments."""
    with AtomicFile(target, len(NEW) * 400) as file:
        for part in range(400):
            file.pwrite(NEW, part * len(NEW))


WRITERS: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (
        write_atomic,
        write_atomic_unsized,
        write_folder,
        write_naive,
        write_naive_folder,
        write_slowly,
    )
}

# the calls that change a file system or a descriptor
CALLS: tuple[tuple[Any, str], ...] = (
    *(
        (os, name)
        for name in (
            "open",
            "mkdir",
            "pwrite",
            "posix_fallocate",
            "fsync",
            "close",
            "rename",
            "unlink",
            "rmdir",
        )
    ),
    (fcntl, "fcntl"),
    (fcntl, "flock"),
    (atomic, "exchange"),
)


class Calls:
    """Counts CALLS while it is active and does something at the k-th, before, after, or half-way."""

    def __init__(self, at: int = 0, when: str = "before", action: Callable[[], None] = lambda: None) -> None:
        self.at, self.when, self.action = at, when, action
        self.count = 0
        self.names: list[str] = []
        self._real: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Calls:
        for module, name in CALLS:
            self._patch(module, name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for module, name, real in self._real:
            setattr(module, name, real)

    def _patch(self, module: Any, name: str) -> None:
        real = getattr(module, name)
        self._real.append((module, name, real))

        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            self.names.append(name)
            if self.count != self.at:
                return real(*args, **kwargs)
            if self.when == "torn" and name == "pwrite":
                real(args[0], args[1][: len(args[1]) // 2], *args[2:])
            if self.when != "after":
                self.action()
                return real(*args, **kwargs)
            try:
                return real(*args, **kwargs)
            finally:
                self.action()  # after a call that fails, too

        setattr(module, name, call)


def interrupt_at_line(at: int, run: Callable[[], None]) -> None:
    """Raise KeyboardInterrupt at the k-th line of `quantrim.files` that `run` comes to, or function head."""
    count = 0
    folder = str(Path(atomic.__file__).parents[1])

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(folder):
            return None
        if event in ("call", "line"):
            count += 1
            if count == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)


# The server


def serve() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(request)
        if "delay" in request:
            time.sleep(request["delay"])
            os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _child(request: dict[str, Any]) -> NoReturn:
    """Run one writer and die in it, or exit with 0; asked to die at no call, with the number of calls."""
    code = 1
    try:
        writer, target = WRITERS[request["writer"]], Path(request["target"])
        if "how" in request:
            at, when = request.get("at", 0), request.get("when", "before")
            with Calls(at, when, lambda: os.kill(os.getpid(), signal.SIGKILL)) as calls:
                writer(target)
            code = calls.count
        else:
            writer(target)
            code = 0
    finally:
        os._exit(code)


class Server:
    """The server, from the side of a test."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "serve"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def run(self, writer: str, target: Path, **request: Any) -> int:
        """The exit code of the child, negative for a signal."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request |= {"writer": writer, "target": str(target)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()


def random_delays(count: int, longest: float) -> Iterator[float]:
    rng = random.Random(20240229)
    return (rng.uniform(0, longest) for _ in range(count))


def write_many(target: str, letter: bytes) -> None:
    for _ in range(20):
        with AtomicFile(target, 1 << 20) as file:
            for part in range(16):
                file.pwrite(letter * 65536, part * 65536)


def write_folders(target: str, letter: bytes) -> None:
    """Thirty times; while another run does, later."""
    written = 0
    while written < 30:
        try:
            with AtomicFolder(target, overwrite=True) as folder:
                for name in "012":
                    with folder.file(name) as file:
                        file.write(letter * 999)
            written += 1
        except OSError as error:
            if (error.errno, error.strerror) != (errno.EBUSY, "another run writes there"):
                raise
            time.sleep(random.uniform(0, 0.003))


if __name__ == "__main__" and sys.argv[1:] == ["serve"]:
    serve()
elif __name__ == "__main__":
    WRITERS[sys.argv[1]](Path(sys.argv[2]))
