"""Two runs on one target: the second says so, before it has done anything; a killed run is in nobody's way."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import refused, run
from files_helpers import leftovers, snapshot
from model_helpers import save, save_folder, weights

import quantrim as qt
from quantrim.files import AtomicFile, AtomicFolder
from quantrim.model import compress, compress_lossless, decompress, merge_checkpoint, restore, split_checkpoint

Write = Callable[..., object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where every kind of source lies: of each command a file and a folder."""
    arrays = {f"layers.{k}.up.weight": weights(96, 64, seed=k) for k in range(3)}
    save(tmp_path / "m.safetensors", arrays)
    save_folder(tmp_path / "m", arrays)
    for source in (tmp_path / "m.safetensors", tmp_path / "m"):
        compress(source, tmp_path / f"small-{source.name}", reader="any")
        compress_lossless(source, tmp_path / f"planes-{source.name}")
    return tmp_path


# command, its function, its source among those of `folder`, its target, further words
COMMANDS: list[tuple[str, Write, str, str, dict[str, Any]]] = [
    ("compress", compress, "m.safetensors", "t.safetensors", {}),
    ("compress", compress, "m", "t", {}),
    ("compress --lossless", compress_lossless, "m.safetensors", "t.safetensors", {}),
    ("compress --lossless", compress_lossless, "m", "t", {}),
    ("restore", restore, "planes-m.safetensors", "t.safetensors", {}),
    ("restore", restore, "planes-m", "t", {}),
    ("decompress", decompress, "small-m.safetensors", "t.safetensors", {}),
    ("decompress", decompress, "small-m", "t", {}),
    ("split", split_checkpoint, "m.safetensors", "t", {"layers": 1}),
    ("merge", merge_checkpoint, "m", "t.safetensors", {}),
    ("merge", merge_checkpoint, "m", "t", {}),
]


@pytest.mark.promise("fault-D24")
@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: f"{case[0]} {case[2]} {case[3]}")
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_second_run_says_so(
    folder: Path, case: tuple[str, Write, str, str, dict[str, Any]], overwrite: bool
) -> None:
    """Both ways: as a function, from within the first run; and on the command line."""
    command, write, source, name, words = case
    target = folder / name
    typed = [*command.split(), folder / source, target, *(f"--{key}={value}" for key, value in words.items())]
    said = []

    def in_between(*_: object) -> None:
        if said:
            return
        before = sorted(folder.rglob("*"))
        with pytest.raises(OSError, match="another run writes there") as caught:
            write(folder / source, target, overwrite=overwrite, **words)
        assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(target))
        said.append(refused(run(*typed, *["--overwrite"] * overwrite), 3))
        assert sorted(folder.rglob("*")) == before

    write(folder / source, target, progress=in_between, **words)
    assert said == [f"'{target}': another run writes there"]
    first = snapshot(target)
    assert first is not None and leftovers(folder) == []
    write(folder / source, target, overwrite=True, **words)  # whoever comes later
    assert snapshot(target) == first


@pytest.mark.promise("fault-D24")
def test_other_targets_are_others(folder: Path) -> None:
    """Also those whose names begin alike, or of one name in another folder."""
    (folder / "sub").mkdir()
    with AtomicFile(folder / "t.safetensors", alone=True) as a, AtomicFolder(folder / "t") as b:
        for name in ("t.safetensors-2", "t.safe", "sub/t.safetensors"):
            with AtomicFile(folder / name, alone=True) as file:
                file.write(b"x")
        for name in ("t2", "sub/t"):
            with AtomicFolder(folder / name):
                pass
        for writer in (AtomicFile(a.path, alone=True), AtomicFolder(b.path), AtomicFolder(b.path, overwrite=True)):
            with pytest.raises(OSError, match="another run writes there"), writer:
                pass
        with AtomicFile(folder / "t.safetensors") as file:  # who does not ask may write, the last one stays
            file.write(b"quicker")
        assert (folder / "t.safetensors").read_bytes() == b"quicker"
        a.write(b"slower")
    assert (folder / "t.safetensors").read_bytes() == b"slower" and leftovers(folder) == []


@pytest.mark.promise("fault-D24")
@pytest.mark.parametrize("make", [AtomicFolder, lambda path: AtomicFile(path, alone=True)])
def test_of_those_that_begin_together_one_goes_on(folder: Path, make: Callable[[Path], Any]) -> None:
    begin, end, said = threading.Barrier(8), threading.Barrier(8), []

    def write() -> None:
        begin.wait()
        try:
            with make(folder / "t"):
                said.append("goes on")
                end.wait()
        except OSError as error:
            said.append(str(error.strerror))
            end.wait()

    for _ in range(5):
        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(said) == [*["another run writes there"] * 7, "goes on"]
        said.clear()
    assert leftovers(folder) == []


SLOW = """
import sys, time
from quantrim.model import compress

def progress(*_):
    print("at work", flush=True)
    time.sleep(600)

compress(sys.argv[1], sys.argv[2], reader="any", overwrite=True, progress=progress)
"""


@pytest.mark.promise("fault-D24")
@pytest.mark.parametrize("name", ["m.safetensors", "m"])
def test_a_killed_run_is_in_nobodys_way(folder: Path, name: str) -> None:
    source, target = folder / name, folder / f"t-{name}"
    command = [sys.executable, "-c", SLOW, str(source), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at work\n"
        assert refused(run("compress", source, target, "--for", "any"), 3).endswith("another run writes there")
        process.send_signal(signal.SIGSTOP)  # alive, if it sleeps
        assert refused(run("compress", source, target, "--for", "any"), 3).endswith("another run writes there")
        process.kill()
    assert len(leftovers(folder)) == 1
    started = time.monotonic()
    assert run("compress", source, target, "--for", "any").exit_code == 0
    assert time.monotonic() - started < 60 and leftovers(folder) == []
    with qt.open_checkpoint(target) as model:
        assert all(np.isfinite(tensor.numpy()).all() for tensor in model.values())
