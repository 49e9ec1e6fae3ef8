"""Breaks planted in a copy of the kernels: test_kernels.py must see each of them, and nothing else."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from children import child
from kernel_families import built, families

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
GXX = shutil.which("g++")
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
    """In `file`, the one `right` becomes `wrong`; with `family` compiled anew, the tests that `seen_by` selects must
    fail."""

    name: str
    family: str
    file: str
    right: str
    wrong: str
    seen_by: str
    isa: str = "x86_v3"


BREAKS = [
    Break(
        "truncation instead of rounding",
        "quantization", "vec_avx2.h", "_mm256_cvtps_epi32(a)", "_mm256_cvttps_epi32(a)", "quantize-4",
    ),
    Break(
        "float16 ties away from even",
        "quantization", "half_in_integers.h", "splat_int(0xfff)", "splat_int(0x1000)", "dequantize", "x86_v2",
    ),
    Break(
        "bfloat16 ties away from even",
        "quantization", "vec.h", "x + splat(0x7fff) + odd", "x + splat(0x8000)", "dequantize",
    ),
    Break(
        "another order of lanes",
        "importance", "vec_avx2.h",
        "_mm_add_ps(four, _mm_movehl_ps(four, four))", "_mm_hadd_ps(four, four)",
        "norm_rows",
    ),
    Break(
        "a tail of one is left out",
        "importance", "vec.h", "if (i < n) body(i, Some{n - i})", "if (i + 1 < n) body(i, Some{n - i})", "norm_rows",
    ),
    Break(
        "a tail is written whole",
        "pruning", "vec.h", "  store(p, a, some.n);", "  store(p, a);", "threshold",
    ),
    Break(
        "infinity passes",
        "importance", "vec.h", "largest(peak) < 0x7f800000", "largest(peak) <= 0x7f800000", "A1_A2 and magnitude",
    ),
    Break(
        "a sum of NaN passes",
        "importance", "importance.h",
        "__builtin_isfinite(sums[i])", "sums[i] != __builtin_inff()",
        "A1_A2 and norm_rows",
    ),
    Break(
        "the third candidate of a word is lost",
        "selection", "selection.h", "for (; marks; marks &= marks - 1)", "if (0)", "large_sets and float32-1",
    ),
    Break(
        "the later of equals goes",
        "pruning", "pruning.h", "before1[16] = {0, 0, 0, 1,", "before1[16] = {0, 0, 0, 0,", "n_of_m-2:4",
    ),
    Break(
        "one tie too few",
        "selection", "selection.h", "rank - under};", "rank - under - 1};", "lowest_mask",
    ),
    Break(
        "the last code is not packed",
        "packing", "bits.h", "load_word(codes + i, n - i)", "load_word(codes + i, n - i - 1)", "pack-3",
    ),
    Break(
        "random numbers start again",
        "quantization", "code_rows.h",
        "grid.seed, static_cast<uint64_t>(first + i)",
        "grid.seed, static_cast<uint64_t>(i)",
        "quantize-4-stochastic",
    ),
    Break(
        "codes in the order of packing",
        "quantization", "vec_codes.h", "_mm_unpackhi_epi32(low, high)", "_mm_unpacklo_epi32(low, high)", "quantize-8",
    ),
    Break(
        "half of each group is not ranged",
        "quantization", "vec_avx2.h", "(x, y, 0x31)", "(x, y, 0x20)", "quantize-4",
    ),
    Break(
        "tiny scales are not lifted",
        "quantization", "grids.h", "splat(kLift), splat(1.0f)", "splat(1.0f), splat(1.0f)", "quantize-8",
    ),
    Break(
        "an edge belongs to the upper value",
        "codebooks", "vec_tables.h",
        "p.r[k] = child(p.r[k], less_float(pick(level_[d], p.r[k]), x.r[k]))",
        "p.r[k] = child(p.r[k], less_equal_float(pick(level_[d], p.r[k]), x.r[k]))",
        "quantize_codebook-mxfp4",
    ),
    Break(
        "edges of another group",
        "codebooks", "codebooks.h", "edges += book.count - 1;", "edges += book.count;", "quantize_codebook-apart",
    ),
    Break(
        "a short group counts its neighbours",
        "codebooks", "codebooks.h",
        "select(mask_of(lanes(left)), size, splat(0))",
        "size",
        "quantize_codebook-odd-groups",
    ),
    Break(
        "the later of equal splits",
        "codebooks", "codebooks.h", "here < found.at", "here > found.at", "fit_clusters", "x86_v2",
    ),
    Break(
        "a row has the range of the one above",
        "quantization", "quantization.h", "load(p + next, part), here", "load(p, part), here", "quantize-8-channel",
    ),
    Break(
        "the narrower of equal clips",
        "quantization", "quantization.h", "error < least", "error <= least", "quantize-4-mse",
    ),
    Break(
        "the low bits of ln 2 are lost",
        "distillation", "exponential.h", "splat(kLn2High)) - whole * splat(kLn2Low)", "splat(kLn2High))", "distill",
    ),
    Break(
        "lanes past the end count as classes",
        "distillation", "distillation.h",
        "ended(exp_nonpositive(x), part, 0)",
        "ended(exp_nonpositive(x), part, 1)",
        "distill",
    ),
    Break(
        "the label's own logit is not raised",
        "distillation", "distillation.h", "grad[label] -= lesson.hard", "grad[0] -= lesson.hard", "distill-labels",
    ),
    Break(
        "the label's probability is another's",
        "activations", "activations.h", "of_label ? mine : theirs", "of_label ? theirs : mine", "predictive",
    ),
    Break(
        "the end of a short block is left out",
        "blocks", "blocks.h", "j < half && j + half < n;", "j < half && j + half < n - 1;", "block_sums-4x4",
    ),
    Break(
        "ties of a known cut are taken twice",
        "selection", "selection.h", "equal &= equal - 1, --below.ties)", "equal &= equal - 1)", "mask_below",
    ),
    Break(
        "groups are filled with their last zeros",
        "sparse", "sparse.h",
        "kept |= kept + 1)",
        "kept |= uint64_t{1} << (63 - __builtin_clzll(group & ~kept)))",
        "sparse_encode-2:4",
    ),
    Break(
        "expanded lanes in the order of the mask",
        "sparse", "vec_moves.h", "expanding ? found : j", "expanding ? j : j", "sparse_decode-bitmask",
    ),
    Break(
        "sixteen columns share the grid of their first",
        "sparse", "stored.h", "smaller(group_of(c + j), groups - 1)", "group_of(c)", "sparse_product and asymmetric",
    ),
    Break(
        "csr adds to the lane of the position",
        "sparse", "sparse.h", "lane[columns[i] & 15] += weight[i]", "lane[i & 15] += weight[i]", "sparse_product-csr",
    ),
]  # fmt: skip


class Workshop:
    """Copies of cpp/, of which single families are compiled; what else a module needs is built already."""

    def __init__(self, folder: Path, objects: dict[str, Path]) -> None:
        self.folder, self.objects = folder, objects

    def run(self, *command: object) -> None:
        done = subprocess.run([str(part) for part in command], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def compile(self, cpp: Path, isa: str, family: str) -> Path:
        to = cpp.with_name(f"{cpp.name}-{isa}-{family}.o")
        level = "x86-64-" + isa.split("_")[1]
        flags = [*FLAGS, f"-DISA={isa}", f"-DFAMILY={family}", f"-march={level}"]
        self.run(GXX, *flags, "-c", cpp / "kernels.cpp", "-o", to)
        return to

    def link(self, name: str, anew: dict[tuple[str, str], Path]) -> Path:
        """The module with some families of some instruction sets, (isa, family), from other objects."""
        objects = dict(self.objects)
        for (isa, family), path in anew.items():
            (built_as,) = (key for key in objects if f"/{isa}-{family}.dir/" in key)
            objects[built_as] = path
        module = self.folder / f"{name}.so"
        self.run(GXX, "-shared", "-fopenmp", *objects.values(), "-o", module)
        return module

    def broken(self, plan: Break, number: int) -> Path:
        """The module with one family compiled from a broken copy."""
        cpp = self.folder / f"cpp{number}"
        shutil.copytree(ROOT / "cpp", cpp)
        file = cpp / "kernels" / plan.file
        text = file.read_text()
        assert text.count(plan.right) == 1, f"{plan.file} must hold {plan.right!r} once: plan the break anew"
        file.write_text(text.replace(plan.right, plan.wrong))
        compiled = self.compile(cpp, plan.isa, plan.family)
        return self.link(f"broken{number}", {(plan.isa, plan.family): compiled})


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    if not GXX or platform.machine() != "x86_64":
        pytest.skip("needs g++ on an x86-64 machine")
    objects = built()
    if not objects:
        pytest.skip("needs the objects that pip install -e leaves in build/")
    return Workshop(tmp_path_factory.mktemp("workshop"), objects)


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


@pytest.mark.parametrize("family", families())
def test_control_without_a_break(workshop: Workshop, family: str) -> None:
    """Everything that the breaks of a family are looked for in passes when nothing is broken."""
    plans = [plan for plan in BREAKS if plan.family == family]
    isas = {plan.isa for plan in plans}
    assert isas, "every family has a break"
    cpp = workshop.folder / f"whole-{family}"
    shutil.copytree(ROOT / "cpp", cpp)
    module = workshop.link(cpp.name, {(isa, family): workshop.compile(cpp, isa, family) for isa in isas})
    code, output = matrix(module, " or ".join(f"({plan.seen_by} and {plan.isa})" for plan in plans))
    assert code == pytest.ExitCode.OK, output


@pytest.mark.parametrize("number", range(len(BREAKS)), ids=lambda n: BREAKS[n].name)
def test_break_is_seen(workshop: Workshop, number: int) -> None:
    plan = BREAKS[number]
    code, output = matrix(workshop.broken(plan, number), f"{plan.seen_by} and {plan.isa}")
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert "AssertionError" in output
