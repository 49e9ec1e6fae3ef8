"""Compute the golden digests anew and say what is not as it was; with --write, and the reason, keep them.

    python tests/golden/make.py
    python tests/golden/make.py --write --because "codes of the sparse layout begin each row on a byte"
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

from golden import outputs, sources  # noqa: E402
from golden.table import CASES  # noqa: E402

TABLE = HERE / "digests.json"
FILES = HERE / "files"


def load() -> dict[str, Any]:
    """The table that was kept: "zstandard", the version of that library, and "sources" and "cases" by name."""
    if not TABLE.exists():
        return {"zstandard": "", "sources": {}, "cases": {}}
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table


def zstandard_version() -> str:
    """On which the bytes of `lossless` may depend."""
    import zstandard

    return ".".join(map(str, zstandard.ZSTD_VERSION))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep what differs as golden")
    parser.add_argument("--because", default="", help="why bytes change on purpose; kept beside each changed row")
    asked = parser.parse_args()
    if asked.write and not asked.because.strip():
        parser.error('--write must be given with --because "why these bytes change"')
    old = load()
    new: dict[str, Any] = {"zstandard": zstandard_version(), "sources": {}, "cases": {}}
    changed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder, made = Path(temporary), Path(temporary) / "sources"
        made.mkdir()
        for name in sources.make_sources(made):
            new["sources"] |= outputs.digests_of_files(made / name)
        for line in outputs.differences(new["sources"], old["sources"]):
            changed += 1
            print(f"source {line}")
        os.chdir(made)
        for number, case in enumerate(CASES.values()):
            results = folder / str(number)
            results.mkdir()
            found = outputs.digests_of(case, made, results)
            before = old["cases"].get(case.name, {"because": "", "outputs": {}})
            lines = outputs.differences(found, before["outputs"], results)
            new["cases"][case.name] = {"because": asked.because if lines else before["because"], "outputs": found}
            changed += bool(lines)
            for line in lines if case.name in old["cases"] else ["is new"]:
                print(f"{case.name}: {line}")
            if asked.write and case.kept and (lines or not kept_file(case.name).exists()):
                FILES.mkdir(exist_ok=True)
                shutil.copyfile(results / "compress.safetensors", kept_file(case.name))
        for name in old["cases"].keys() - CASES.keys():
            changed += 1
            print(f"{name}: is gone")
    print(f"{len(CASES)} cases, {changed} differences" + (", written" if asked.write else ""))
    if asked.write:
        TABLE.write_text(json.dumps(new, indent=1) + "\n")
    return int(bool(changed) and not asked.write)


def kept_file(name: str) -> Path:
    """Where the first result of a case is kept."""
    return FILES / f"{name.replace(' ', '-')}.safetensors"


if __name__ == "__main__":
    sys.exit(main())
