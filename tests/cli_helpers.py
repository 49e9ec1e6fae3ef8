"""The command line in this process, for tests: a run, and the line that a refusal says."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from quantrim.cli import app


def run(*words: object) -> Result:
    try:
        runner = CliRunner(mix_stderr=False)  # type: ignore[call-arg]  # of typer on click before 8.2
    except TypeError:
        runner = CliRunner()
    return runner.invoke(app, [str(word) for word in words], prog_name="quantrim")


def refused(result: Result, code: int = 2) -> str:
    """The one line on stderr of a run that failed."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("quantrim: error: "), lines
    assert "\x1b" not in lines[0] and lines[0].isprintable()
    return lines[0].removeprefix("quantrim: error: ")
