"""The families of cpp/kernels.h: each is compiled into an object of its own for every instruction set."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNELS_H = ROOT / "cpp" / "kernels.h"


def families() -> list[str]:
    listed = re.search(r"#define FAMILIES\(X\)((?:.*\\\n)*.*)", KERNELS_H.read_text())
    assert listed
    return re.findall(r"X\((\w+)\)", listed[1])


def built() -> dict[str, Path]:
    """The objects that the installed module was linked from, by their names there. pip install -e leaves them."""
    objects: dict[str, Path] = {}
    for ninja in sorted((ROOT / "build").glob("*/build.ninja"), key=lambda path: path.stat().st_mtime):
        linked = re.search(r"^build _core\S+: \S+ (.*?) \|", ninja.read_text(), re.MULTILINE)
        assert linked, ninja
        objects = {name: ninja.parent / name for name in linked[1].split()}
    return objects if all(path.exists() for path in objects.values()) else {}
