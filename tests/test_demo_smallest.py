"""The demo's network as small as validation allows: what is chosen, by which images, and what the file holds."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from quantrim.demo import digits
from quantrim.demo.smallest import LAYERS, MAX_DROP, Smallest, accuracy, smallest
from quantrim.model import compress

EXAMPLE = Path(__file__).parents[1] / "examples" / "tune_digits.py"
HALF = 180


@pytest.fixture(scope="module")
def found() -> Smallest:
    with digits.model_file() as network:
        return smallest(network, *digits.held_out())


def test_it_is_within_the_drop_and_small(found: Smallest) -> None:
    """Smaller than any of the demo's variants that read as well; all zipped, as the original's 188,350 bytes."""
    assert found.tuned.complete and found.tuned.drop <= MAX_DROP
    assert found.images == (HALF, HALF) and found.evaluations <= 2 * (1 + 4 + 3 * 3 + 3 * 4)
    assert found.nbytes < 26_000 and found.zipped < 23_000
    assert found.original - found.accuracy <= 2 / HALF, "what it is worth on images that had no part in it"


def test_figures_are_those_of_the_file(found: Smallest, tmp_path: Path) -> None:
    images, labels = digits.held_out()
    target = tmp_path / "small.safetensors"
    with digits.model_file() as network:
        compress(network, target, recipe=found.recipe)
        before = digits.decoded(network)
    after = digits.decoded(target)
    assert target.stat().st_size == found.nbytes and len(zlib.compress(target.read_bytes(), 9)) == found.zipped
    assert accuracy(after, images[:HALF], labels[:HALF]) == found.tuned.score
    assert accuracy(before, images[:HALF], labels[:HALF]) == found.tuned.baseline
    assert accuracy(after, images[HALF:], labels[HALF:]) == found.accuracy
    assert accuracy(before, images[HALF:], labels[HALF:]) == found.original
    for layer in LAYERS:
        pruned = float((after[f"{layer}.weight"] == 0).mean())
        assert pruned >= found.tuned.settings[f"{layer} sparsity"] - 1e-3


def test_only_the_first_half_chooses(found: Smallest) -> None:
    images, labels = digits.held_out()
    labels = labels.copy()
    labels[HALF:] = 9 - labels[HALF:]
    with digits.model_file() as network:
        other = smallest(network, images, labels)
    assert other.tuned == found.tuned and other.zipped == found.zipped
    assert other.accuracy < 0.1 and other.original < 0.1


def test_the_example_tells_both_halves(found: Smallest) -> None:
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == list(LAYERS)
    assert lines[3].startswith(f"203,752 bytes became {found.nbytes:,}, zipped {found.zipped:,}")
    assert lines[4] == f"the 180 images that chose: {found.tuned.baseline:.2%} before, {found.tuned.score:.2%} now"
    assert lines[5] == f"the 180 others: {found.original:.2%} before, {found.accuracy:.2%} now"
    assert "0 of at most 26 evaluations: the mildest settings" in done.stderr
