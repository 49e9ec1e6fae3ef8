"""The NEON kernels: they compile without a warning, and under an emulator return the bits of x86."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_families import built, families

HERE = Path(__file__).parent
KERNELS = HERE.parent / "cpp" / "kernels.cpp"
CROSS = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64")
NATIVE = shutil.which("g++")
STRICT = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]
FLAGS = ["-std=c++20", *STRICT, "-ffp-contract=off", "-fno-math-errno"]
QUICK = "-Dflatten=unused"  # helpers stay functions, which compiles ten times faster and changes no result


def build(compiler: str, *options: object) -> None:
    done = subprocess.run([compiler, *FLAGS, *map(str, options)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def compiled(folder: Path, compiler: str, *options: str) -> list[Path]:
    """The kernels of every family."""
    objects = [folder / f"{family}.o" for family in families()]
    for family, to in zip(families(), objects, strict=True):
        build(compiler, *options, f"-DFAMILY={family}", "-c", KERNELS, "-o", to)
    return objects


@pytest.mark.slow
def test_compiles() -> None:
    if not CROSS:
        pytest.skip("needs aarch64-linux-gnu-g++ (package g++-aarch64-linux-gnu)")
    for family in families():
        build(CROSS, "-march=armv8-a", "-DISA=arm_neon", f"-DFAMILY={family}", "-fsyntax-only", KERNELS)


@pytest.mark.promise("F123", "F124", "G7")
@pytest.mark.slow
def test_same_bits_as_x86(tmp_path: Path) -> None:
    """Every kernel on some 25 000 inputs; tests/checksums.cpp says which."""
    if not (CROSS and EMULATOR and NATIVE and platform.machine() == "x86_64"):
        pytest.skip("needs x86-64 with g++, aarch64-linux-gnu-g++ and qemu-aarch64 (package qemu-user)")
    installed = [path for name, path in built().items() if "/x86_v2-" in name]
    if not installed:
        pytest.skip("needs the objects that pip install -e leaves in build/")
    arm, x86 = tmp_path / "arm", tmp_path / "x86"
    options = ["-O1", QUICK, "-static", "-march=armv8-a", "-DISA=arm_neon"]
    build(CROSS, *options, *compiled(tmp_path, CROSS, *options), HERE / "checksums.cpp", "-o", arm)
    build(NATIVE, "-O1", "-march=x86-64-v2", "-DISA=x86_v2", *installed, HERE / "checksums.cpp", "-o", x86)
    commands = [EMULATOR, str(arm)], [str(x86)]
    sums = [subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands]
    assert len(sums[0].splitlines()) == 18
    assert sums[0] == sums[1]
