"""Breaks planted in a copy of the kernels: test_kernels.py must see each of them, and nothing else."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from children import child
from kernel_families import families

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
GXX = shutil.which("g++")
LEVELS = ("x86_v2", "x86_v3", "x86_v4")
FLAGS = [
    "-std=c++20",
    "-O0",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fPIC",
    "-fvisibility=hidden",
    "-fopenmp",
]


@dataclass(frozen=True)
class Break:
    """In `file`, the one `right` becomes `wrong`; the tests that `seen_by` selects must fail."""

    name: str
    file: str
    right: str
    wrong: str
    seen_by: str
    isa: str = "x86_v3"


BREAKS = [
    Break(
        "truncation instead of rounding",
        "vec_avx2.h", "_mm256_cvtps_epi32(a)", "_mm256_cvttps_epi32(a)", "quantize-4",
    ),
    Break(
        "float16 ties away from even",
        "half_in_integers.h", "splat_int(0xfff)", "splat_int(0x1000)", "dequantize", "x86_v2",
    ),
    Break(
        "bfloat16 ties away from even",
        "vec.h", "x + splat(0x7fff) + odd", "x + splat(0x8000)", "dequantize",
    ),
    Break(
        "another order of lanes",
        "vec.h", "lane[j] += lane[j + half]", "lane[j] = lane[2 * j] + lane[2 * j + 1]", "norm_rows",
    ),
    Break(
        "a tail of one is left out",
        "vec.h", "if (i < n) body(i, Some{n - i})", "if (i + 1 < n) body(i, Some{n - i})", "norm_rows",
    ),
    Break(
        "a tail is written whole",
        "vec.h", "  store(p, a, some.n);", "  store(p, a);", "threshold",
    ),
    Break(
        "infinity passes",
        "vec.h", "largest(peak) < 0x7f800000", "largest(peak) <= 0x7f800000", "A1_A2 and magnitude",
    ),
    Break(
        "the later of equals goes",
        "pruning.h", "before1[16] = {0, 0, 0, 1,", "before1[16] = {0, 0, 0, 0,", "n_of_m-2:4",
    ),
    Break(
        "one tie too few",
        "selection.h", "rank - under};", "rank - under - 1};", "lowest_mask",
    ),
    Break(
        "the last code is not packed",
        "bits.h", "load_word(codes + i, n - i)", "load_word(codes + i, n - i - 1)", "pack-3",
    ),
    Break(
        "random numbers start again",
        "quantization.h",
        "grid.seed, static_cast<uint64_t>(first + i)", "grid.seed, static_cast<uint64_t>(i)",
        "quantize-4-stochastic",
    ),
    Break(
        "tiny scales are not lifted",
        "grids.h", "splat(kLift), splat(1.0f)", "splat(1.0f), splat(1.0f)", "quantize-8",
    ),
    Break(
        "an edge belongs to the upper value",
        "vec_tables.h", "p.r[k] = child(p.r[k], less_float(pick(level_[d], p.r[k]), x.r[k]))",
        "p.r[k] = child(p.r[k], less_equal_float(pick(level_[d], p.r[k]), x.r[k]))",
        "quantize_codebook-mxfp4",
    ),
    Break(
        "edges of another group",
        "codebooks.h", "edges += book.count - 1;", "edges += book.count;", "quantize_codebook-apart",
    ),
    Break(
        "a short group counts its neighbours",
        "codebooks.h", "select(mask_of(lanes(left)), size, splat(0))", "size", "quantize_codebook-odd-groups",
    ),
    Break(
        "the later of equal splits",
        "codebooks.h", "here < found.at", "here > found.at", "fit_clusters", "x86_v2",
    ),
    Break(
        "the narrower of equal clips",
        "quantization.h", "error < least", "error <= least", "quantize-4-mse",
    ),
    Break(
        "the low bits of ln 2 are lost",
        "exponential.h", "splat(kLn2High)) - whole * splat(kLn2Low)", "splat(kLn2High))", "distill",
    ),
    Break(
        "lanes past the end count as classes",
        "distillation.h", "ended(exp_nonpositive(x), part, 0)", "ended(exp_nonpositive(x), part, 1)", "distill",
    ),
    Break(
        "the label's own logit is not raised",
        "distillation.h", "grad[label] -= lesson.hard", "grad[0] -= lesson.hard", "distill-labels",
    ),
    Break(
        "the label's probability is another's",
        "activations.h", "of_label ? mine : theirs", "of_label ? theirs : mine", "predictive",
    ),
    Break(
        "the end of a short block is left out",
        "blocks.h", "j < half && j + half < n;", "j < half && j + half < n - 1;", "block_sums-4x4",
    ),
    Break(
        "ties of a known cut are taken twice",
        "selection.h", "equal &= equal - 1, --below.ties)", "equal &= equal - 1)", "mask_below",
    ),
    Break(
        "groups are filled with their last zeros",
        "sparse.h", "kept |= kept + 1)", "kept |= uint64_t{1} << (63 - __builtin_clzll(group & ~kept)))",
        "sparse_encode-2:4",
    ),
    Break(
        "expanded lanes in the order of the mask",
        "vec_moves.h", "expanding ? found : j", "expanding ? j : j", "sparse_decode-bitmask",
    ),
    Break(
        "sixteen columns share the grid of their first",
        "stored.h", "smaller(group_of(c + j), groups - 1)", "group_of(c)", "sparse_product and asymmetric",
    ),
    Break(
        "csr adds to the lane of the position",
        "sparse.h", "lane[columns[i] & 15] += weight[i]", "lane[i & 15] += weight[i]", "sparse_product-csr",
    ),
]  # fmt: skip


class Workshop:
    """A copy of cpp/ with its objects; modules are linked from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "cpp", folder / "cpp")
        include = subprocess.run(
            [sys.executable, "-m", "pybind11", "--includes"], capture_output=True, text=True, check=True
        )
        self.includes = include.stdout.split()
        cpp = folder / "cpp"
        self.plain = [p for p in sorted(cpp.rglob("*.cpp")) if p.name != "kernels.cpp"]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.compile, self.plain))
            list(pool.map(lambda isa: self.compile_isa(cpp, isa), LEVELS))

    def run(self, *command: object) -> str:
        done = subprocess.run([str(part) for part in command], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def compile(self, source: Path) -> None:
        self.run(GXX, *FLAGS, *self.includes, "-c", source, "-o", self.object(source))

    def object(self, source: Path) -> Path:
        """Two folders may have a file of the same name."""
        return self.folder / f"{source.parent.name}-{source.stem}.o"

    def compile_isa(self, cpp: Path, isa: str, changed: str = "", suffix: str = "") -> list[Path]:
        """The objects of an instruction set, one per family; those that do not include `changed` are there already."""
        level = "x86-64-" + isa.split("_")[1]
        objects = []
        for family in families():
            flags = [*FLAGS, f"-DISA={isa}", f"-DFAMILY={family}", f"-march={level}"]
            to = self.folder / f"{isa}-{family}.o"
            if not changed or f"/{changed}" in self.run(GXX, *flags, "-MM", cpp / "kernels.cpp"):
                to = to.with_stem(to.stem + suffix)
                self.run(GXX, *flags, "-c", cpp / "kernels.cpp", "-o", to)
            objects.append(to)
        return objects

    def unbroken(self, isas: Iterable[str]) -> list[Path]:
        return [self.folder / f"{isa}-{family}.o" for isa in isas for family in families()]

    def link(self, name: str, isas: Iterable[Path]) -> Path:
        module = self.folder / f"{name}.so"
        self.run(
            GXX,
            "-shared",
            "-fopenmp",
            *map(self.object, self.plain),
            *isas,
            "-o",
            module,
        )
        return module

    def broken(self, plan: Break, number: int) -> Path:
        """The module with one instruction set compiled from a broken copy."""
        cpp = self.folder / f"cpp{number}"
        shutil.copytree(self.folder / "cpp", cpp)
        file = cpp / "kernels" / plan.file
        text = file.read_text()
        assert text.count(plan.right) == 1, f"{plan.file} must hold {plan.right!r} once: plan the break anew"
        file.write_text(text.replace(plan.right, plan.wrong))
        broken = self.compile_isa(cpp, plan.isa, plan.file, str(number))
        return self.link(f"broken{number}", [*broken, *self.unbroken(i for i in LEVELS if i != plan.isa)])


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    if not GXX or platform.machine() != "x86_64":
        pytest.skip("needs g++ on an x86-64 machine")
    return Workshop(tmp_path_factory.mktemp("workshop"))


def matrix(module: Path, select: str) -> tuple[int, str]:
    """Exit code and output of the selected tests of test_kernels.py with this compiled module."""
    code = f"""
import importlib.util, sys
import pytest
spec = importlib.util.spec_from_file_location("quantrim._core", {str(module)!r})
sys.modules[spec.name] = core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
import quantrim.backend
assert quantrim.backend._core is core
tests = ["tests/test_kernels.py", "-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-k", {select!r}]
sys.exit(pytest.main(["--rootdir", {str(ROOT)!r}, "-c", {str(ROOT / "pyproject.toml")!r}, *tests]))
"""
    result = child(f"import os; os.chdir({str(ROOT)!r})\n{code}", limit=600)
    return result.returncode, result.stdout + result.stderr


def test_control_without_a_break(workshop: Workshop) -> None:
    """Everything that the breaks are looked for in passes when nothing is broken."""
    module = workshop.link("whole", workshop.unbroken(LEVELS))
    select = " or ".join(f"({b.seen_by} and {b.isa})" for b in BREAKS)
    code, output = matrix(module, select)
    assert code == pytest.ExitCode.OK, output


@pytest.mark.parametrize("number", range(len(BREAKS)), ids=lambda n: BREAKS[n].name)
def test_break_is_seen(workshop: Workshop, number: int) -> None:
    plan = BREAKS[number]
    code, output = matrix(workshop.broken(plan, number), f"{plan.seen_by} and {plan.isa}")
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert "AssertionError" in output
