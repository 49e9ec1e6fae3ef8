"""Every promise of docs/reference/promises.md is held by a test, and every marker is of a promise there."""

from __future__ import annotations

import subprocess
import sys

import pytest
from promises import PAGE, our_sources, problems

ROWS = "| C64 | Bad offsets are refused. |\n| F117 | Registers are saved. | the compiler |\n"
HELD = '@pytest.mark.promise("C64")\ndef test_bad_offsets() -> None: ...\n'


def test_promises_and_tests_agree() -> None:
    found = problems(PAGE.read_text(), our_sources())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("rows", "source", "problem"),
    [
        (ROWS, HELD.replace("C64", 'C64", "C640'), "::test_bad_offsets holds C640, which is not in promises.md"),
        (ROWS, "def test_bad_offsets() -> None: ...", "no test holds C64, and the page names nothing else"),
        (ROWS, HELD + HELD.replace("C64", "F117"), "F117 is held by tests; its row must not name something else"),
        (ROWS, HELD.replace("test_bad", "test_C64_bad"), "test_C64_bad_offsets must be named by what it shows"),
        (ROWS, HELD.replace("test_bad", "test_B_bad"), "test_B_bad_offsets must be named by what it shows"),
        (ROWS, HELD.replace("...", '"""C64: none."""'), "must not begin its docstring with an id"),
        (ROWS + ROWS, HELD, "promises.md has C64 twice"),
    ],
)
def test_what_disagrees_is_found(rows: str, source: str, problem: str) -> None:
    assert problems(ROWS, {"tests/test_a.py": HELD}) == []
    found = problems(rows, {"tests/test_a.py": source})
    assert found and problem in found[0]


def test_the_tests_of_a_promise_can_be_listed() -> None:
    command = [sys.executable, PAGE.parents[2] / "tests" / "promises.py", "C64"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "tests/test_files_safetensors.py::test_bad_offsets" in listed
