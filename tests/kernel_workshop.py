"""A compiled module some of whose kernels were made anew, and the matrix of test_kernels.py run with it."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from children import child
from kernel_families import ROOT, built

GXX = shutil.which("g++")
FLAGS = ["-std=c++20", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-fvisibility=hidden", "-fopenmp"]


class Workshop:
    """Where single families of kernels are compiled; what else a module needs is built already."""

    def __init__(self, folder: Path) -> None:
        if not GXX or platform.machine() != "x86_64":
            pytest.skip("needs g++ on an x86-64 machine")
        self.folder, self.objects = folder, built()
        if not self.objects:
            pytest.skip("needs the objects that pip install -e leaves in build/")

    def run(self, *command: object) -> None:
        done = subprocess.run([str(part) for part in command], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def compile(self, cpp: Path, isa: str, family: str, *options: str) -> Path:
        """The family from the sources in `cpp`, for the name of an instruction set."""
        to = self.folder / f"{cpp.name}-{isa}-{family}.o"
        level = "x86-64-" + isa.split("_")[1]
        flags = [*FLAGS, *options, f"-DISA={isa}", f"-DFAMILY={family}", f"-march={level}"]
        self.run(GXX, *flags, "-c", cpp / "kernels.cpp", "-o", to)
        return to

    def link(self, name: str, anew: dict[tuple[str, str], Path], *options: str) -> Path:
        """The module with some families of some instruction sets, (isa, family), from other objects."""
        objects = dict(self.objects)
        for (isa, family), path in anew.items():
            (built_as,) = (key for key in objects if f"/{isa}-{family}.dir/" in key)
            objects[built_as] = path
        module = self.folder / f"{name}.so"
        self.run(GXX, "-shared", "-fopenmp", *options, *objects.values(), "-o", module)
        return module

    def changed(self, name: str, file: str, right: str, wrong: str) -> Path:
        """A copy of the sources of that name, with a change in one place of a file of cpp/kernels."""
        cpp = self.folder / name
        shutil.copytree(ROOT / "cpp", cpp)
        path = cpp / "kernels" / file
        text = path.read_text()
        assert text.count(right) == 1, f"{file} must hold {right!r} once: plan the break anew"
        path.write_text(text.replace(right, wrong))
        return cpp


def run_tests(module: Path, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """pytest with this compiled module in the place of the installed one; how: what `child` takes."""
    code = f"""
import importlib.util, os, sys
import pytest
os.chdir({str(ROOT)!r})
spec = importlib.util.spec_from_file_location("quantrim._core", {str(module)!r})
sys.modules[spec.name] = core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
import quantrim.backend
assert quantrim.backend._core is core
usual = ["--rootdir", {str(ROOT)!r}, "-c", {str(ROOT / "pyproject.toml")!r}, "-x", "-q", "-p", "no:cacheprovider"]
sys.exit(pytest.main([*usual, *{arguments!r}]))
"""
    return child(code, limit=600, **how)


def matrix(module: Path, select: str) -> tuple[int, str]:
    """Exit code and output of the selected tests of test_kernels.py with this compiled module."""
    result = run_tests(module, "tests/test_kernels.py", "--tb=line", "-k", select)
    return result.returncode, result.stdout + result.stderr
