"""The families of cpp/kernels.h: each is compiled into an object of its own for every instruction set."""

from __future__ import annotations

import re
from pathlib import Path

KERNELS_H = Path(__file__).parents[1] / "cpp" / "kernels.h"


def families() -> list[str]:
    listed = re.search(r"#define FAMILIES\(X\)((?:.*\\\n)*.*)", KERNELS_H.read_text())
    assert listed
    return re.findall(r"X\((\w+)\)", listed[1])
