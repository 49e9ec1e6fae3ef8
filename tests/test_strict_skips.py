"""The option --strict-skips of conftest.py, in a run of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROWS = '[[skip]]\ntests = "test_it.py::test_"\nreason = "^Skipped: needs a (moon|sun)"\nwhy = "shines at times"\n'
UNUSED = ROWS + '[[skip]]\ntests = "test_other.py"\nreason = "never"\nwhy = "never"\n'
ALLOWED = "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('needs a moon')\n"
PLANTED = {
    "another reason": ALLOWED + "def test_c(): pytest.skip('no time')\n",
    "a mark": ALLOWED + "@pytest.mark.skip(reason='later')\ndef test_c(): pass\n",
    "a condition": ALLOWED + "@pytest.mark.skipif(True, reason='later')\ndef test_c(): pass\n",
    "a fixture": ALLOWED + "@pytest.fixture\ndef f(): pytest.skip('later')\ndef test_c(f): pass\n",
    "a module": "import pytest\npytest.importorskip('no_such_module')\ndef test_a(): pass\n",
}


def run(folder: Path, source: str, rows: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (folder / "test_it.py").write_text(source)
    (folder / "skips.toml").write_text(rows)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_skip_that_is_written_down_passes_and_unused_rows_are_shown(tmp_path: Path, workers: str) -> None:
    source = ALLOWED + "@pytest.mark.xfail(reason='known')\ndef test_c(): assert 0\n"
    done = run(tmp_path, source, UNUSED, "--strict-skips=skips.toml", workers)
    assert done.returncode == 0, done.stdout
    assert "no skip here matched the row of test_other.py (never)" in done.stdout
    assert "row of test_it.py" not in done.stdout


@pytest.mark.parametrize("kind,workers", [*((kind, "-n0") for kind in PLANTED), ("a mark", "-n2"), ("a module", "-n2")])
def test_any_other_skip_fails_the_run(tmp_path: Path, kind: str, workers: str) -> None:
    done = run(tmp_path, PLANTED[kind], ROWS, "--strict-skips=skips.toml", workers)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "skips that no row of skips.toml allows" in done.stdout
    assert run(tmp_path, PLANTED[kind], ROWS, workers).returncode in (0, pytest.ExitCode.NO_TESTS_COLLECTED)
