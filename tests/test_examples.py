"""The examples in a short form: they run, and what they print is what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def printed(script: str, *options: str) -> str:
    pytest.importorskip("sklearn", reason="scikit-learn, which holds the images, is not installed")
    run = subprocess.run([sys.executable, EXAMPLES / script, *options], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_teacher_helps_where_labels_are_few() -> None:
    """The sign of all six pairs is the same; five seeds could not show it."""
    rows = printed("distill_digits.py", "--seeds", "6", "--steps", "200").splitlines()
    few = next(row for row in rows if row.startswith("100 labels"))
    alone, taught, difference = (float(mean) for mean in re.findall(r"(-?\d+\.\d+) ±", few))
    assert few.endswith("taught is better") and difference > 3
    assert taught - alone == pytest.approx(difference, abs=0.02)
    assert any(row.startswith("all 1437 labels") for row in rows)
    assert "too few seeds to tell" in printed("distill_digits.py", "--seeds", "1", "--steps", "2")


def test_a_pruned_network_recovers(tmp_path: Path) -> None:
    rows = printed("recover_digits.py", "--seeds", "1", "--epochs", "3", "--output", str(tmp_path)).splitlines()
    found = {row.split()[0]: [int(n) for n in row.split()[1:3]] for row in rows[2:]}
    assert list(found) == ["50%", "70%", "80%", "90%"]
    assert all(after > before for before, after in found.values())
    assert [path.name for path in tmp_path.iterdir()] == ["recovered.safetensors"]
