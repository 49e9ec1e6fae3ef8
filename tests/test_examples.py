"""Examples run and print what they say: the programs in examples/ in a short form, the blocks in README and docs/."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import documents
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def printed(script: str, *options: str) -> str:
    pytest.importorskip("sklearn", reason="scikit-learn, which holds the images, is not installed")
    run = subprocess.run([sys.executable, EXAMPLES / script, *options], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.interop
def test_a_teacher_helps_where_labels_are_few() -> None:
    """The sign of all six pairs is the same; five seeds could not show it."""
    rows = printed("distill_digits.py", "--seeds", "6", "--steps", "200").splitlines()
    few = next(row for row in rows if row.startswith("100 labels"))
    alone, taught, difference = (float(mean) for mean in re.findall(r"(-?\d+\.\d+) ±", few))
    assert few.endswith("taught is better") and difference > 3
    assert taught - alone == pytest.approx(difference, abs=0.02)
    assert any(row.startswith("all 1437 labels") for row in rows)
    assert "too few seeds to tell" in printed("distill_digits.py", "--seeds", "1", "--steps", "2")


@pytest.mark.interop
def test_a_pruned_network_recovers(tmp_path: Path) -> None:
    rows = printed("recover_digits.py", "--seeds", "1", "--epochs", "3", "--output", str(tmp_path)).splitlines()
    found = {row.split()[0]: [int(n) for n in row.split()[1:3]] for row in rows[2:]}
    assert list(found) == ["50%", "70%", "80%", "90%"]
    assert all(after > before for before, after in found.values())
    assert [path.name for path in tmp_path.iterdir()] == ["recovered.safetensors"]


# Documents

NOT_RUN = {  # page, and the first line of a block, without its comment
    ("README.md", "./run demo"),
    ("README.md", "./run test"),
    ("docs/contributing/testing.md", "pip install -e '.[test]' && pytest -n 2"),
    ("docs/install.md", "./run demo"),
    ("docs/install.md", "pip install ."),
}


@pytest.mark.parametrize("page", [page for page in documents.PAGES if documents.blocks(page)])
def test_examples_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents.workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    documents.run(page, tmp_path)


@pytest.mark.interop
def test_readme_shows_what_a_real_model_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that model, the same command runs on a small one, and what it prints is not compared."""
    if documents.MINILM not in os.environ:
        pytest.skip("needs QUANTRIM_MINILM, the folder of all-MiniLM-L6-v2")
    test_examples_of_a_page_run("README.md", tmp_path, monkeypatch)


def test_blocks_that_do_not_run_are_listed() -> None:
    found = [block for page in documents.PAGES for block in documents.blocks(page) if block.why]
    assert {(block.page, block.first) for block in found} == NOT_RUN


@pytest.mark.parametrize("page", documents.PAGES)
def test_every_fence_is_one_that_runs_or_needs_not(page: str) -> None:
    """Indented, or without a word that says what it is, a block might be an example that nothing runs."""
    fences = re.findall(r"^([ >]*)```+(.*)$", documents.PAGES[page].read_text(), re.M)
    known = (*documents.RUN, "text", "json")
    assert [word for _, word in fences[::2] if word not in known and not word.startswith("{")] == []
    assert not any(indent for indent, _ in fences)


def test_a_block_that_fails_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"sh": "quantrim inspect nothing", "python": "1 / 0", "console": "$ echo yes\nno", "toml": "bits = 9"}
    for language, code in wrong.items():
        page = tmp_path / f"{language}.md"
        page.write_text(f"```{language}\n{code}\n```\n")
        monkeypatch.setitem(documents.PAGES, language, page)
        with pytest.raises((AssertionError, ArithmeticError, ValueError)):
            documents.run(language, tmp_path)


@pytest.mark.parametrize("page", ["README.md", "HACKING.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Those of docs/ are checked when they are built."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (documents.ROOT / page).read_text())
    assert links and [link for link in links if ":" not in link and not (documents.ROOT / link).exists()] == []


def test_files_that_documents_name_are_there() -> None:
    """Contributors follow them; who moves a file mends its pages."""
    folders = ("bench", "cpp", "docs", "examples", "python", "tests")
    names = {path.name for folder in folders for path in (documents.ROOT / folder).rglob("*.*")}
    pages = [page for page in documents.PAGES if re.match("docs/(contributing|performance)", page)]
    texts = [(documents.ROOT / page).read_text() for page in ("HACKING.md", *pages)]
    named = {name for text in texts for name in re.findall(r"\b[\w./]+\.(?:h|cpp|inc|py|json|css)\b", text)}
    assert len(named) > 20
    assert {name for name in named if Path(name).name not in names} == {"config.json"}
