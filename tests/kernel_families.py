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


def objects_in(folder: Path) -> dict[str, Path]:
    """The objects that the module in a build tree was linked from, by their names there."""
    linked = re.search(r"^build _core\S+: \S+ (.*?) \|", (folder / "build.ninja").read_text(), re.MULTILINE)
    assert linked, folder
    return {name: folder / name for name in linked[1].split()}


def built() -> dict[str, Path]:
    """Those of the installed module. pip install -e leaves them."""
    ninjas = sorted((ROOT / "build").glob("*/build.ninja"), key=lambda path: path.stat().st_mtime)
    objects = objects_in(ninjas[-1].parent) if ninjas else {}
    return objects if all(path.exists() for path in objects.values()) else {}
