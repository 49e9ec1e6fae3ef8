"""The kernels and bindings built with AddressSanitizer and UBSan, and the threads with ThreadSanitizer.

Whatever a sanitizer sees ends the process with its report, so that the tests that run in it fail. What it is to see is
planted as well.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pybind11
import pytest
from kernel_families import ROOT, objects_in
from kernel_workshop import GXX, Workshop, run_tests

import quantrim as qt

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "sanitizers"
ISAS = [isa for isa in qt.isas() if isa != "reference"]
# Casts and divisions of floats are not part of what gcc calls undefined; ieee_quotient of vec.h is the exception.
MEMORY = "address,undefined,float-cast-overflow,float-divide-by-zero"
# numpy takes the memory of arrays from malloc, to the byte and each for itself, so that its ends are watched without
# PYTHONMALLOC; only what was freed may be taken again from its cache, unseen. The rest is for speed. Python does not
# free all it has when it ends.
ASAN_OPTIONS = "detect_leaks=0:allocator_may_return_null=1:malloc_context_size=2:quarantine_size_mb=32"
# Python and numpy are not built with TSan; their locks are seen nevertheless, being those of pthread.
TSAN_OPTIONS = "halt_on_error=1:ignore_noninstrumented_modules=1"
REPORT = r"runtime error: .*|ERROR: AddressSanitizer: \S+|WARNING: ThreadSanitizer: .*"

# What takes minutes in such a build, while others run the same kernels: least squares searches, large arrays, and bits
# that only packing tells apart.
LONG = (
    "quantize-2-x86 or quantize-3-x86 or quantize-6-x86 or quantize-7-x86 or masked-three-teachers or "
    "quantize-2-mse or largest-mse or mse-asymmetric or fit_grids-groups or fit_clusters-x86"
    " or (large_sets and not float32-3) or (leave_the_caches and not threshold and not dequantize)"
)
# Of the families whose kernels may read past what they need.
ARRAYS = ["arrays", "packing", "sparse", "layouts_sparse_bitmask"]


def library(name: str) -> str:
    """The runtime of a sanitizer, which a Python that was built without it has to load before all else."""
    path = subprocess.run([str(GXX), f"-print-file-name={name}.so"], capture_output=True, text=True, check=True).stdout
    assert Path(path.strip()).is_absolute(), f"gcc has no {name}"
    return path.strip()


def built(name: str, sanitizers: str) -> Path:
    """The compiled module, built with them into a folder that later runs and other processes take up again."""
    if not GXX or not shutil.which("cmake") or not shutil.which("ninja"):
        pytest.skip("needs g++, cmake and ninja: pip install cmake ninja")
    folder = ROOT / "build" / "sanitizers" / name
    folder.mkdir(parents=True, exist_ok=True)
    python = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    options = [f"-DQUANTRIM_SANITIZE={sanitizers}", "-DPYBIND11_FINDPYTHON=ON", *python]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (["-G", "Ninja", "-S", ROOT, "-B", folder, *options], ["--build", folder]):
            done = subprocess.run(["cmake", *command], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    (module,) = folder.glob("_core.*.so")
    return module


def memory_checked() -> dict[str, Any]:
    return {"LD_PRELOAD": f"{library('libasan')} {library('libubsan')}", "ASAN_OPTIONS": ASAN_OPTIONS}


def threads_checked() -> dict[str, Any]:
    """TSan of gcc 12 cannot live with the address randomization of newer kernels, unless it is off."""
    steady = ["setarch", os.uname().machine, "-R"]
    can = shutil.which("setarch") and subprocess.run([*steady, "true"], capture_output=True).returncode == 0
    return {"LD_PRELOAD": library("libtsan"), "TSAN_OPTIONS": TSAN_OPTIONS, "command": tuple(steady if can else [])}


def passed(module: Path, *arguments: str, **how: Any) -> None:
    """Some tests were run, they pass, and no sanitizer has a word to say. -s: a report would be lost in the capture."""
    done = run_tests(module, "-s", *arguments, **how)
    output = done.stdout + done.stderr
    assert done.returncode == 0 and re.search(r"^\d+ passed", output, re.MULTILINE), output[-5000:]
    assert not re.search(REPORT, output), output[-5000:]


@pytest.mark.parametrize("isa", ISAS)
def test_kernels_read_and_write_what_is_theirs(isa: str) -> None:
    module = built("memory", MEMORY)
    passed(module, "tests/test_kernels.py", "-k", f"{isa} and not ({LONG})", **memory_checked(), QUANTRIM_ISA=isa)


@pytest.mark.parametrize("isa", ISAS)
def test_functions_on_any_array(isa: str) -> None:
    """Of any layout and alignment, through the bindings."""
    files = [f"tests/test_{name}.py" for name in ARRAYS]
    passed(built("memory", MEMORY), *files, **memory_checked(), QUANTRIM_ISA=isa)


# What is planted at the beginning of a kernel of packing.h, and what must be reported.
PACK = "  uint64_t seen = 0;\n"
UNPACK = "  for (int64_t r = 0; r < rows; ++r, packed += (n * bits + 7) / 8, codes += n)"
PLANTED = {
    "a byte is written past the end": (UNPACK, "  codes[rows * n] = 0;\n", "heap-buffer-overflow"),
    "a byte is read past the end": (PACK, "  if (codes[rows * n] == 255) return false;\n", "heap-buffer-overflow"),
    "sixteen are read where three are": (
        PACK, "  if (rows && n < 16 && load_sixteen(codes + (rows - 1) * n)[0]) rows += 0;\n", "heap-buffer-overflow",
    ),
    "an integer overflows": (PACK, "  if (0x7fffffff + bits == 0) return false;\n", "signed integer overflow"),
    "a float becomes an integer too large": (
        PACK, "  if (static_cast<int>(4e9f * static_cast<float>(bits)) == 0) return false;\n",
        "outside the range of representable values",
    ),
    "a float is divided by 0": (PACK, "  if (1 / static_cast<float>(bits - bits) < 0) return false;\n", "division by"),
    "a shift is too wide": (PACK, "  if (1 << (bits + 32) == 0) return false;\n", "shift exponent"),
}  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def run_planted(workshop: Workshop, name: str, place: str, planted: str) -> str:
    isa, flags = ISAS[-1], [f"-fsanitize={MEMORY}", "-fno-sanitize-recover=all"]
    cpp = workshop.changed(name, "packing.h", place, planted + place if place == UNPACK else place + planted)
    packing = workshop.compile(cpp, isa, "packing", "-O0", *flags)
    module = workshop.link(name, {(isa, "packing"): packing}, flags[0])
    done = run_tests(module, "-s", "tests/test_kernels.py", "-k", f"pack and same_bits and {isa}", **memory_checked())
    assert (done.returncode == 0) == (planted == ""), done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


def test_control_nothing_planted(workshop: Workshop) -> None:
    assert not re.search(REPORT, run_planted(workshop, "whole", PACK, ""))


@pytest.mark.parametrize("number", range(len(PLANTED)), ids=list(PLANTED).__getitem__)
def test_planted_bug_is_reported(workshop: Workshop, number: int) -> None:
    place, planted, report = list(PLANTED.values())[number]
    output = run_planted(workshop, f"planted{number}", place, planted)
    found = re.search(REPORT, output)
    assert found and report in found[0], output[-5000:]


@pytest.mark.parametrize(
    "level,statement",
    [
        ("x86-64-v2", "_mm_stream_ps(x + 12, _mm_setzero_ps())"),
        ("x86-64-v2", "_mm_stream_si128(reinterpret_cast<__m128i*>(x + 12), _mm_setzero_si128())"),
        ("x86-64-v3", "x[0] = _mm256_cvtss_f32(_mm256_i32gather_ps(x, _mm256_set1_epi32(12), 4))"),
        ("x86-64-v4", "x[0] = _mm512_cvtss_f32(_mm512_mask_loadu_ps(_mm512_setzero_ps(), 0x1fff, x))"),
        ("x86-64-v4", "_mm512_stream_ps(x, _mm512_setzero_ps())"),
    ],
)
def test_intrinsics_that_gcc_hides_are_seen(workshop: Workshop, level: str, statement: str) -> None:
    """Behind twelve floats; without intrinsics.h, which makes them plain, nothing is reported."""
    if level.replace("x86-64", "x86") not in [isa.replace("_", "-") for isa in ISAS]:
        pytest.skip(f"needs a processor of {level}")
    source, program = workshop.folder / "hidden.cpp", workshop.folder / "hidden"
    source.write_text(
        "#include <immintrin.h>\n#include <cstdlib>\nint main() {\n"
        "  void* memory;\n  if (posix_memalign(&memory, 64, 48)) return 1;\n"
        f"  auto* x = static_cast<float*>(memory);\n  x[0] = 0;\n  {statement};\n  return 0;\n}}\n"
    )
    for seen in (False, True):
        header = ["-include", HERE / "intrinsics.h"] if seen else []
        workshop.run(GXX, "-O0", "-fsanitize=address", f"-march={level}", *header, source, "-o", program)
        done = subprocess.run([program], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
        assert ("ERROR: AddressSanitizer" in done.stderr) == seen, done.stderr


# ThreadSanitizer


def test_threads_of_calls_do_not_race() -> None:
    """Slices of one call of each function, and two such calls on one input; a cut that slices look for together."""
    module, how = built("threads", "thread"), threads_checked()
    passed(module, "tests/test_concurrency.py", "-k", "eight_threads", **how, QUANTRIM_THREADS="3")
    large = f"large_sets and {ISAS[0]} and float32-3-"
    passed(module, "tests/test_kernels.py", "-k", large, **how)


def test_planted_race_of_a_kernel_is_reported(tmp_path: Path) -> None:
    """Slices of one call that count in one place."""
    isa, workshop = ISAS[-1], Workshop(tmp_path)
    workshop.objects = objects_in(built("threads", "thread").parent)
    cpp = workshop.changed("racing", "packing.h", PACK, PACK + "  static int64_t calls = 0;\n  ++calls;\n")
    packing = workshop.compile(cpp, isa, "packing", "-O0", "-g1", "-fsanitize=thread")
    module = workshop.link("racing", {(isa, "packing"): packing}, "-fsanitize=thread")
    done = run_tests(module, "-s", "tests/test_kernels.py", "-k", f"pack and same_bits and {isa}", **threads_checked())
    assert done.returncode != 0 and "ThreadSanitizer: data race" in done.stderr, done.stdout + done.stderr


RACES = {
    "nothing": ("", ""),
    "the result of all slices without a reduction": (" reduction(&& : all)", ""),
    "slices that overlap by a row": ("const int64_t first = count * s / slices;",
                                     "const int64_t first = count * s / slices - (s > 0);"),
    "a choice that all threads share": ("inline thread_local Choice own_choice;", "inline Choice own_choice;"),
}  # fmt: skip


@pytest.mark.parametrize("planted", RACES)
def test_race_in_parallel_h(tmp_path: Path, planted: str) -> None:
    """tests/sanitizers/parallel.cpp with a copy of the header."""
    if not GXX:
        pytest.skip("needs g++")
    right, wrong = RACES[planted]
    text = (ROOT / "cpp" / "parallel.h").read_text()
    assert not right or text.count(right) == 1, f"parallel.h must hold {right!r} once: plan the race anew"
    (tmp_path / "parallel.h").write_text(text.replace(right, wrong) if right else text)
    flags = ["-std=c++20", "-O1", "-g1", "-fopenmp", "-fsanitize=thread", "-I", tmp_path]
    sources = [HERE / "parallel.cpp", HERE / "gomp.cpp"]
    subprocess.run([GXX, *flags, *sources, "-o", tmp_path / "program"], check=True)
    command = [*threads_checked()["command"], tmp_path / "program"]
    done = subprocess.run(command, capture_output=True, text=True, env={"TSAN_OPTIONS": "halt_on_error=1"})
    if right:
        assert done.returncode != 0 and "ThreadSanitizer: data race" in done.stderr, done.stderr
    else:
        assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")
