"""Promises of docs/reference/promises.md and the tests that hold them.

    python tests/promises.py               every promise with its tests
    pytest $(python tests/promises.py C64) the tests of one
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "promises.md"
ID = r"(?:fault-)?[A-G]\d+"
_ROW = re.compile(rf"^\| ({ID}) \| ([^|]+) \|(?: ([^|]+) \|)?$", re.M)
_CODE_IN_NAME = re.compile(r"_[A-G]\d*(?=_|$)")
_CODE_IN_DOCSTRING = re.compile(rf"{ID}(?:,? {ID})*[:,.]")


class Promise(NamedTuple):
    id: str
    text: str
    held_by: str  # what else holds it; "" where tests do


class Marked(NamedTuple):
    node: str  # as pytest takes it: path::name
    promises: tuple[str, ...]
    docstring: str


def promises(page: str) -> list[Promise]:
    """Return the rows of the page's tables."""
    return [Promise(*row) for row in _ROW.findall(page)]


def marked_tests(sources: Mapping[str, str]) -> Iterator[Marked]:
    """Yield every test function of these files, path: text."""
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marked = tuple(id for decorator in node.decorator_list for id in _ids(decorator))
                yield Marked(f"{path}::{node.name}", marked, ast.get_docstring(node) or "")


def _ids(decorator: ast.expr) -> list[str]:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.promise":
        return [str(ast.literal_eval(argument)) for argument in decorator.args]
    return []


def problems(page: str, sources: Mapping[str, str]) -> list[str]:
    """Return what is wrong between the page and the tests of these files, a line each."""
    rows, found = promises(page), list(marked_tests(sources))
    known, held = [row.id for row in rows], {id for test in found for id in test.promises}
    lines = [f"{PAGE.name} has {id} twice" for id in sorted({id for id in known if known.count(id) > 1})]
    lines += [f"no test holds {row.id}, and the page names nothing else that does"
              for row in rows if row.id not in held and not row.held_by]  # fmt: skip
    lines += [f"{row.id} is held by tests; its row must not name something else"
              for row in rows if row.id in held and row.held_by]  # fmt: skip
    for test in found:
        lines += [f"{test.node} holds {id}, which is not in {PAGE.name}" for id in test.promises if id not in known]
        if _CODE_IN_NAME.search(test.node.partition("::")[2]):
            lines.append(f"{test.node} must be named by what it shows; ids of promises go into @pytest.mark.promise")
        if _CODE_IN_DOCSTRING.match(test.docstring):
            lines.append(f"{test.node} must not begin its docstring with an id; use @pytest.mark.promise")
    return lines


def our_sources() -> dict[str, str]:
    """Return path and text of each of our files of tests."""
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.glob("tests/**/test_*.py"))}


def main(wanted: list[str]) -> None:
    """Print the tests of the promises that are wanted, or all promises with theirs."""
    nodes = {row.id: [row.held_by] if row.held_by else [] for row in promises(PAGE.read_text())}
    for test in marked_tests(our_sources()):
        for id in test.promises:
            nodes.setdefault(id, []).append(test.node)
    if unknown := set(wanted) - nodes.keys():
        sys.exit(f"ids must be of {PAGE.name}, not {', '.join(sorted(unknown))}")
    if wanted:
        print(*dict.fromkeys(node for id in wanted for node in nodes[id]), sep="\n")
    else:
        for id, found in nodes.items():
            print(id, *found, sep="\n    ")


if __name__ == "__main__":
    main(sys.argv[1:])
