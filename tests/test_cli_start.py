"""How the program begins: what it loads for which words, Ctrl-C while it loads, and its completion in shells."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import quantrim as qt
from quantrim import words

PACKAGE = Path(__file__).parents[1] / "python" / "quantrim"
HEAVY = {"numpy", "ml_dtypes", "quantrim._core", "quantrim.model"}
COMMANDS = {"compress", "restore", "inspect", "compare", "split", "merge", "info", "demo"}
ENTRY = "import sys; from quantrim.__main__ import main; sys.argv[1:] = {words}; main()"  # as the console script does
LOADED = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
"""


def run(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quantrim", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
        check=False,
    )


def loaded(words: list[str], env: Mapping[str, str] | None = None) -> set[str]:
    """The modules that the program has loaded when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED + ENTRY.format(words=words)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
        check=True,
    )
    return set(done.stderr.split())


# What is loaded


@pytest.mark.promise("fault-D12")
def test_the_version_needs_nothing() -> None:
    modules = loaded(["--version"])
    assert modules & {*HEAVY, "typer", "rich", "click", "quantrim.cli"} == set()


@pytest.mark.promise("fault-D12")
@pytest.mark.parametrize("words", [["--help"], ["compress", "--help"], ["demo", "-h"]], ids=" ".join)
def test_help_needs_no_kernels(words: list[str]) -> None:
    assert loaded(words) & HEAVY == set()


@pytest.mark.promise("fault-D12")
def test_importing_the_package_loads_neither_models_nor_the_command_line() -> None:
    code = "import quantrim, sys; quantrim.prune; print(*sys.modules)"
    modules = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "quantrim._core" in modules
    assert modules & {"quantrim.model", "quantrim.files", "quantrim.commands", "typer", "rich"} == set()


@pytest.mark.promise("fault-D12")
def test_names_are_there_when_they_are_asked_for() -> None:
    code = "import quantrim as qt; print(qt.compress.__module__, qt.model.tune.__module__, 'model' in dir(qt))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["quantrim.model.compress", "quantrim.model.tune", "True"]
    with pytest.raises(AttributeError, match="module 'quantrim' has no attribute 'polish'"):
        qt.polish  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.promise("fault-D12")
def test_editors_see_the_names_that_python_finds() -> None:
    """The imports for type checkers, the table for Python, and __all__ say the same."""
    seen: dict[str, str] = {}
    modules: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level and node.module != "_version":
            for alias in node.names:
                if node.module is None:
                    modules.add(alias.name)
                else:
                    seen[alias.asname or alias.name] = node.module + (f":{alias.name}" if alias.asname else "")
    assert modules == set(qt._MODULES) and seen == qt._HOMES
    assert qt.__all__ == sorted([*modules, *seen])
    for name in qt.__all__:
        assert hasattr(qt, name) and name in dir(qt)


IMPORTS = """
import sys
import numpy, ml_dtypes
before = set(sys.modules)
import quantrim as qt
{use}
print(*sorted(set(sys.modules) - before))
"""
MOST_MODULES = {"": 10, "qt.prune, qt.quantize, qt.cluster, qt.pack, qt.sparse, qt.importance": 60}


@pytest.mark.parametrize("use", MOST_MODULES)
def test_importing_costs_little_beside_numpy(use: str) -> None:
    """In modules, which a busy machine does not change: arrays load no floor of files and models, and no large library.
    """
    code = IMPORTS.format(use=use)
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(loaded) <= MOST_MODULES[use]
    floors = ("quantrim.model", "quantrim.files", "quantrim.layouts", "quantrim.commands")
    assert not [name for name in loaded if name.startswith((*floors, "typer", "rich", "zstandard", "h5py", "asyncio"))]


ELSEWHERE = """
import sys
for name in ("fcntl", "termios", "resource", "pwd", "grp", "typer", "rich"):
    sys.modules[name] = None  # an ImportError
import os
for name in ("register_at_fork", "sched_getaffinity", "O_CLOEXEC", "fork"):
    if hasattr(os, name):
        delattr(os, name)
import numpy as np, quantrim as qt
w = np.eye(8, dtype=np.float32)
print(qt.sparsity(qt.prune(w, 0.95)), qt.quantize(w, 4), qt.sparse.from_dense(w) @ w[0])
for name in qt.__all__:
    try:
        getattr(qt, name)
    except ImportError as error:
        print(name, error.name)
"""


def test_arrays_need_nothing_that_only_posix_has() -> None:
    """What opens files is the one thing that is missing there, and says so when it is asked for."""
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=True)
    first, *missing = done.stdout.splitlines()
    assert first.startswith("0.95") and "QuantizedTensor(int4 per channel, 8x8" in first
    assert missing and {line.split()[1] for line in missing} <= {"fcntl", "resource"}
    models = {"compare", "compress", "decompress", "files", "inspect", "model", "open_checkpoint", "plan", "tune"}
    assert {line.split()[0] for line in missing} == models


# Ctrl-C


@pytest.mark.promise("fault-D19")
@pytest.mark.parametrize("swallowed", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("module", ["typer", "numpy", "ml_dtypes"])
def test_ctrl_c_while_a_module_loads_is_one_line(module: str, swallowed: bool, tmp_path: Path) -> None:
    """Also where the module would swallow an exception."""
    waits = "print('loading', flush=True); import time; time.sleep(60)"
    body = f"try:\n    {waits}\nexcept BaseException:\n    pass\n" if swallowed else f"{waits}\n"
    (tmp_path / f"{module}.py").write_text(body)
    process = subprocess.Popen(
        [sys.executable, "-c", ENTRY.format(words=["compress", "a", "b"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.fspath(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"loading\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (130, b"quantrim: stopped: by SIGINT\n")


# python -m quantrim, and shells


@pytest.mark.promise("fault-D16")
def test_the_package_is_a_program() -> None:
    assert run("--version").stdout == f"quantrim {qt.__version__}\n"
    assert "Usage: quantrim" in run("--help").stdout
    assert run("polish").returncode == 2


def completion(words: str, env: Mapping[str, str] | None = None) -> list[str]:
    """What bash is told to put in the place of the last of `words`."""
    asked = {"_QUANTRIM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = run(env={**asked, **(env or {})})
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout.split()


@pytest.mark.promise("fault-D16")
def test_shells_complete_commands_and_options() -> None:
    assert set(completion("quantrim ")) >= COMMANDS
    assert completion("quantrim comp") == ["compress", "compare"]
    assert completion("quantrim compress --group") == ["--group-size"]


def test_shells_complete_the_values_of_options() -> None:
    assert completion("quantrim compress a b --storage ") == list(words.STORAGES)
    assert completion("quantrim compress a b --for v") == ["vllm"]
    assert completion("quantrim decompress a b --dtype ") == list(words.FLOATS)


@pytest.mark.promise("fault-D16")
@pytest.mark.parametrize("line", ["quantrim c", "quantrim compress a b --codebook n"])
def test_completion_needs_no_kernels(line: str) -> None:
    asked = {"_QUANTRIM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    assert loaded([], env=asked) & {*HEAVY, "rich.table"} == set()


@pytest.mark.promise("fault-D16")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_shells_is_shown(shell: str) -> None:
    done = run("--show-completion", shell, env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert done.returncode == 0 and "_QUANTRIM_COMPLETE" in done.stdout


@pytest.mark.promise("fault-D16")
def test_completion_is_installed(tmp_path: Path) -> None:
    env = {"HOME": os.fspath(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = run("--install-completion", "bash", env=env)
    assert done.returncode == 0 and "completion installed" in done.stdout
    assert "quantrim" in (tmp_path / ".bashrc").read_text()
