"""The command line as a program: exit codes, signals, pipes, closed descriptors, terminals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from held_tensors import normal
from safetensors.numpy import save_file

import quantrim as qt
from quantrim.files import open_checkpoint

PROGRAM = [sys.executable, "-m", "quantrim"]
COLOUR = re.compile(rb"\x1b\[[0-9;]*(3|4|9|10)[0-7]m")
SLOW_PROGRAM = """
import sys, time
from quantrim.commands import progress
from quantrim.cli import main

class Waiting:
    def __init__(self, verb): pass
    def __call__(self, done, total, name):
        if done:
            print("at work", file=sys.stderr, flush=True)
            time.sleep(60)

progress._Lines = Waiting
main(sys.argv[1:])
"""


def run(
    *words: object, env: Mapping[str, str] | None = None, program: Sequence[str] = PROGRAM
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*program, *map(str, words)],
        capture_output=True,
        timeout=60,
        env={**os.environ, **(env or {})},
        check=False,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_file({f"layers.{k}.weight": normal(64, 128, seed=k) for k in range(400)}, path)
    return path


def test_exit_codes(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert run("compress", model, out).returncode == 0
    assert run("compress", model, out).returncode == 2
    assert run("compare", model, out).returncode == 0
    assert run("inspect", "nowhere").returncode == 3
    assert run("polish").returncode == 2


def test_an_error_is_one_line_without_a_traceback(model: Path) -> None:
    done = run("compress", model, "out.safetensors", "--bits", "9")
    assert done.stderr == b"quantrim: error: --bits must be an integer of 2..8, not 9\n" and done.stdout == b""


@pytest.mark.promise("B45", "F128")
@pytest.mark.parametrize("command", ["info", "inspect", "demo"])
@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("QUANTRIM_THREADS", "abc", "an integer of 1..1024, not 'abc'"),
        ("QUANTRIM_THREADS", "0", "an integer of 1..1024, not 0"),
        ("QUANTRIM_ISA", "avx9", f"an instruction set of this machine, one of {qt.isas()}, not 'avx9'"),
    ],
)
def test_a_bad_environment_is_one_line(command: str, name: str, value: str, must: str, model: Path) -> None:
    done = run(command, *([model, "--no-stats"] if command == "inspect" else []), env={name: value})
    said = f"quantrim: error: {name} must be {must}\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", said)
    assert run("--help", env={name: value}).returncode == 0


# Signals


@contextmanager
def at_work(model: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program in the midst of writing `out`."""
    words = [sys.executable, "-c", SLOW_PROGRAM, "compress", os.fspath(model), os.fspath(out), "--overwrite"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == b"at work\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


@pytest.mark.promise("D101")
@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "HUP"],
)
@pytest.mark.parametrize("old", [None, b"what was there"], ids=["new", "replaced"])
def test_a_signal_leaves_nothing_behind(
    signum: signal.Signals, code: int, old: bytes | None, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    if old is not None:
        out.write_bytes(old)
    with at_work(model, out) as process:
        assert len(list(tmp_path.iterdir())) == 1 + (old is not None)  # the temporary is there
        process.send_signal(signum)
        begin = time.monotonic()
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - begin < 15
    assert process.returncode == code
    assert err.splitlines() == [f"quantrim: stopped: by {signum.name}".encode()]
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == ({} if old is None else {out.name: old})


@pytest.mark.promise("D101")
def test_the_harness_sees_a_killed_program(model: Path, tmp_path: Path) -> None:
    """SIGKILL cannot be handled: what it leaves is what the tests above look for."""
    with at_work(model, tmp_path / "out.safetensors") as process:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 1


@pytest.mark.promise("D101", "G17")
@pytest.mark.slow
def test_a_signal_at_any_time(tmp_path: Path) -> None:
    """Nothing is left, and the program stops at once: within 100 ms on a calm machine, 500 ms on a busy one."""
    source, out = tmp_path / "source.safetensors", tmp_path / "out.safetensors"
    save_file({f"{k}.weight": normal(2048, 2048, seed=k) for k in range(8)}, source)
    begin = time.monotonic()
    assert run("compress", source, out, "--scale", "mse").returncode == 0
    whole, seconds = out.read_bytes(), time.monotonic() - begin
    random = np.random.default_rng(0)
    codes, waits = set(), []
    for signum in [signal.SIGINT, signal.SIGTERM] * 8:
        out.unlink(missing_ok=True)
        words = [*PROGRAM, "compress", os.fspath(source), os.fspath(out), "--scale", "mse"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds * random.uniform(0.3, 1))  # from when the interpreter has begun
        process.send_signal(signum)
        sent = time.monotonic()
        code = process.wait(20)
        if code == 128 + signum:
            waits.append(time.monotonic() - sent)
        codes.add(code)
        left = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path != source}
        # before the program has its handlers a signal ends it; after the rename the file is whole
        assert code in (0, 128 + signum, -signum, 1)
        assert left in ({}, {out.name: whole})
    assert codes & {130, 143}
    assert np.median(waits) < 0.5, waits


# Pipes and descriptors


@pytest.mark.promise("D102")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", [("--json",), ()], ids=["json", "table"])
def test_a_reader_that_goes_away_is_no_error(
    words: tuple[str, ...], unbuffered: str, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "many.safetensors"
    save_file({f"layers.{k}.weight": normal(2, 2) for k in range(4000)}, path)  # more than a pipe holds
    process = subprocess.Popen(
        [*PROGRAM, "inspect", path, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert process.stdout is not None and process.stderr is not None
    assert len(process.stdout.read(1)) == 1
    process.stdout.close()
    said = process.stderr.read().splitlines()
    assert all(b" %, " in line for line in said), said  # how far it is, where the machine is slow
    process.stderr.close()
    assert process.wait(20) == 128 + signal.SIGPIPE


@pytest.mark.promise("D102")
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_descriptors(closed: tuple[int, ...], model: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.safetensors", tmp_path / "r.json"
    closing = "".join(f"import os; os.close({fd});" for fd in closed)
    words = [*PROGRAM, "compress", os.fspath(model), os.fspath(out), "--report", os.fspath(report)]
    code = f"{closing} os.execv({sys.executable!r}, {words!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    with open_checkpoint(out) as checkpoint:  # a stray print in it would be seen
        assert len(checkpoint) == 1200
    assert json.loads(report.read_text())["destination"] == os.fspath(out)
    for words in ([*PROGRAM, "compress", "nowhere", "x"], [*PROGRAM, "--help"]):
        code = f"{closing} os.execv({sys.executable!r}, {words!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
        assert done.returncode == (3 if "nowhere" in words else 0), done.stderr


@pytest.mark.promise("D96", "fault-D29")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")  # noqa: PTH110
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", [("info",), ("inspect", "MODEL"), ("--help",)], ids=lambda words: words[0])
def test_a_full_disk_under_stdout_is_exit_code_3(words: tuple[str, ...], unbuffered: str, model: Path) -> None:
    """What stays in the buffer must not fail again when the interpreter ends, and make it exit code 120."""
    found = [os.fspath(model) if word == "MODEL" else word for word in words]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [*PROGRAM, *found], stdout=full, stderr=subprocess.PIPE, env=env, timeout=60, check=False
        )
    assert done.returncode == 3
    assert done.stderr == b"quantrim: error: No space left on device\n"


@pytest.mark.promise("fault-D29")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")  # noqa: PTH110
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_full_disk_under_stderr_keeps_the_exit_code(unbuffered: str) -> None:
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    for words, code in ((["polish"], 2), (["inspect", "nowhere"], 3)):
        with open("/dev/full", "wb") as full:  # noqa: PTH123
            done = subprocess.run([*PROGRAM, *words], stdout=full, stderr=full, env=env, timeout=60, check=False)
        assert done.returncode == code


def test_an_encoding_that_cannot_say_it_escapes_it(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"größe": normal(4, 4)}, path)
    done = run("inspect", path, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0 and rb"gr\xf6\xdfe" in done.stdout and b"@" in done.stdout


# Terminals


def on_terminal(*words: object, columns: int = 100, env: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """The program on a terminal of its own: its exit code, and all that it drew."""
    ours, theirs = pty.openpty()
    settings = {"TERM": "xterm-256color", "COLUMNS": str(columns), "LANG": "C.UTF-8", **(env or {})}
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    process = subprocess.Popen(
        [*PROGRAM, *map(str, words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, **settings},
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not part:
            break
        drawn += part
    os.close(ours)
    return process.wait(60), drawn


def test_tables_are_drawn_on_a_terminal_and_plain_elsewhere(model: Path) -> None:
    code, drawn = on_terminal("inspect", model)
    assert code == 0 and COLOUR.search(drawn) and "───".encode() in drawn
    plain = run("inspect", model).stdout
    assert b"\x1b" not in plain and "───".encode() not in plain and b"layers.399.weight" in plain


def test_no_color_is_respected(model: Path) -> None:
    for words in (("inspect", model), ("info",), ("compress", "--help")):
        assert COLOUR.search(on_terminal(*words)[1])
        assert not COLOUR.search(on_terminal(*words, env={"NO_COLOR": "1"})[1])


def test_a_dumb_terminal_gets_no_bar(model: Path, tmp_path: Path) -> None:
    code, drawn = on_terminal("compress", model, tmp_path / "out.safetensors", env={"TERM": "dumb"})
    assert code == 0 and b"\x1b" not in drawn and b"smaller" in drawn


def test_a_bar_is_drawn_on_a_terminal(model: Path, tmp_path: Path) -> None:
    code, drawn = on_terminal("compress", model, tmp_path / "out.safetensors")
    assert code == 0 and b"compressing" in drawn and b"100%" in drawn


def test_nothing_is_wider_than_the_terminal(model: Path) -> None:
    for words in (
        ("inspect", model),
        ("compare", model, model),
        ("compress", model, "x.safetensors", "--dry-run"),
    ):
        code, drawn = on_terminal(*words, columns=60, env={"NO_COLOR": "1"})
        lines = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", drawn).decode().replace("\r", "\n").splitlines()
        assert code == 0 and max(map(len, lines)) <= 60
