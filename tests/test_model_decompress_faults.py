"""decompress interrupted, out of space, on sources that change or lie: nothing is written. And what memory it takes.

That it may be killed at any moment is held by `test_model_faults`.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from children import printed
from files_helpers import nothing_written, write_tensors
from model_helpers import save, save_folder, small_model, sparse_checkpoint, stored_tensors

from quantrim.files import FormatError
from quantrim.files.disk.writer import FileWriter
from quantrim.model import compress, decompress
from quantrim.model.streaming import chunks

MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A compressed folder, and a compressed file beside it."""
    compress(save(tmp_path / "source.safetensors", small_model()), tmp_path / "small.safetensors", bits=4)
    compress(save_folder(tmp_path / "source", small_model()), tmp_path / "small", bits=4)
    return tmp_path / "small"


@pytest.mark.promise("D95")
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_nothing(small: Path, kind: str, overwrite: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    source = small if kind == "folder" else small.with_suffix(".safetensors")
    target = small.parent / ("target" if kind == "folder" else "target.safetensors")
    if overwrite:
        decompress(source, target, dtype="float16")
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 12)
    real, calls = FileWriter.pwrite, 0

    def full(self: FileWriter, data: object, offset: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 25:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(self.path))
        real(self, data, offset)  # type: ignore[arg-type]

    monkeypatch.setattr(FileWriter, "pwrite", full)
    with nothing_written(target), pytest.raises(OSError, match="No space left"):
        decompress(source, target, overwrite=overwrite)
    assert calls >= 25


@pytest.mark.promise("D101")
def test_what_progress_raises_ends_the_work(small: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with nothing_written(small.parent / "target"), pytest.raises(KeyboardInterrupt):
        decompress(small, small.parent / "target", progress=stop)


INTERRUPTED = textwrap.dedent(
    """
    import sys, threading
    from quantrim.model import decompress

    def progress(done, total, name):
        if done and not told:
            told.append(1)
            print("running", flush=True)

    told = []
    try:
        decompress(sys.argv[1], sys.argv[2], overwrite=True, progress=progress)
    except KeyboardInterrupt:
        assert threading.active_count() == 1
        sys.exit(130)
    """
)


def packed(path: Path, rows: int, count: int = 1) -> Path:
    """A checkpoint of int4 codes, 4096 columns, that takes no room on the disk but for its shapes."""
    entries: list[tuple[str, str, list[int]]] = []
    for k in range(count):
        entries.append((f"{k}.weight_packed", "I32", [rows, 512]))
        entries.append((f"{k}.weight_scale", "F16", [rows, 32]))
        entries.append((f"{k}.weight_shape", "I64", [2]))
    sparse_checkpoint(path, entries)
    from quantrim.files import read_header

    with path.open("r+b") as file:
        for tensor in read_header(path)[0].values():
            if tensor.name.endswith("shape"):
                file.seek(tensor.offset)
                file.write(np.array([rows, 4096], "<i8").tobytes())
    return path


@pytest.mark.promise("D101")
@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_ctrl_c_stops_and_cleans(tmp_path: Path, delay: float) -> None:
    source, target = packed(tmp_path / "source.safetensors", 8192, 8), tmp_path / "target.safetensors"
    target.write_bytes(b"old")
    command = [sys.executable, "-c", INTERRUPTED, str(source), str(target)]
    environment = os.environ | {"QUANTRIM_THREADS": "2"}
    with (
        nothing_written(target),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run,
    ):
        assert run.stdout is not None and run.stdout.readline() == "running\n"
        time.sleep(delay)
        run.send_signal(signal.SIGINT)
        assert run.wait(10) == 130


def test_a_source_that_changes(small: Path) -> None:
    path = next(small.glob("*.safetensors"))

    def touch(*_: object) -> None:
        os.utime(path)

    with nothing_written(small.parent / "target"), pytest.raises(FormatError, match="changed while it was being read"):
        decompress(small, small.parent / "target", progress=touch)


@pytest.mark.promise("B44")
def test_scales_that_are_none_are_seen_before_the_target_is(small: Path) -> None:
    tensors = stored_tensors(small.with_suffix(".safetensors"))
    name = "model.layers.0.up.weight_scale"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 0] = np.nan
    bad = save(small.parent / "bad.safetensors", tensors)
    target = small.parent / "t.safetensors"
    with nothing_written(target), pytest.raises(FormatError, match=f"bad.safetensors.*{name}.*finite"):
        decompress(bad, target)


@pytest.mark.promise("B44")
@pytest.mark.parametrize(
    "name,array,words",
    [
        ("m.weight", np.full((4, 32), 0x7F, np.uint8).view(ml_dtypes.float8_e4m3fn), "weights must be finite, not nan"),
        ("m.weight", np.full((4, 32), 0x7C, np.uint8).view(ml_dtypes.float8_e5m2), "weights must be finite, not inf"),
        ("m.weight_scale", np.full((4, 1), 255, np.uint8), "exponents of 0..254, not 255"),
        ("m.weight_scale", np.full((4, 1), np.inf, np.float32), "weight_scale must be finite"),
    ],
    ids=["nan", "inf", "exponent", "scale"],
)
def test_float8_that_is_no_number(tmp_path: Path, name: str, array: np.ndarray, words: str) -> None:  # type: ignore[type-arg]
    tensors = {"m.weight": np.ones((4, 32), ml_dtypes.float8_e4m3fn), "m.weight_scale": np.ones((4, 1), np.float32)}
    write_tensors(tmp_path / "m.safetensors", tensors | {name: array})
    with nothing_written(tmp_path / "t.safetensors"), pytest.raises(FormatError, match=words):
        decompress(tmp_path / "m.safetensors", tmp_path / "t.safetensors")


RUN = """
from pathlib import Path
import quantrim as qt
from quantrim.model.streaming import chunks
from quantrim.model import decompress
chunks.CHUNK_BYTES = {chunk}
with qt.use_threads(2):
    decompress({source!r}, {target!r})
status = Path("/proc/self/status").read_text()
print(1024 * int(status.split("VmHWM:")[1].split()[0]))
"""


def peak(folder: Path, chunk: int) -> int:
    """Peak resident bytes of a process that decompresses 128 MiB of float16."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc/self/status, to see the peak of a process")
    source = packed(folder / "source.safetensors", 16384)
    code = RUN.format(chunk=chunk, source=str(source), target=str(folder / "target.safetensors"))
    return int(printed(code, limit=600))


@pytest.mark.promise("G12")
def test_memory_is_that_of_some_chunks(tmp_path: Path) -> None:
    """A tensor of 128 MiB; the positive control is one chunk for all of it."""
    few = peak(tmp_path, chunks.CHUNK_BYTES)
    (tmp_path / "target.safetensors").unlink()
    assert few < 160 * MIB and peak(tmp_path, 256 * MIB) > few + 100 * MIB
