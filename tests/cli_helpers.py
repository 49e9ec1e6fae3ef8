"""The command line in this process, for tests: a run, and the line that a refusal says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from held_tensors import normal
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from quantrim.cli import app


def run(*words: object) -> Result:
    try:
        runner = CliRunner(mix_stderr=False)  # type: ignore[call-arg]  # of typer on click before 8.2
    except TypeError:
        runner = CliRunner()
    return runner.invoke(app, [str(word) for word in words], prog_name="quantrim")


def five_layers(folder: Path) -> Path:
    """A checkpoint of five matrices and a vector."""
    path = folder / "model.safetensors"
    arrays = {f"layers.{k}.weight": normal(96, 128, seed=k) for k in range(5)}
    save_file({**arrays, "norm.weight": np.ones(128, np.float32)}, path)
    return path


def refused(result: Result, code: int = 2) -> str:
    """The one line on stderr of a run that failed."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("quantrim: error: "), lines
    assert "\x1b" not in lines[0] and lines[0].isprintable()
    return lines[0].removeprefix("quantrim: error: ")
