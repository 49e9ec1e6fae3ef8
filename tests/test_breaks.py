"""Breaks planted in a copy of the kernels: test_kernels.py must see each of them, and nothing else."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import pytest
from kernel_families import ROOT, families
from kernel_workshop import Workshop, matrix

pytestmark = pytest.mark.slow


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
        "quantization", "vec_avx2.h", "_mm256_cvtps_epi32(a)", "_mm256_cvttps_epi32(a)", "quantize-4-x86",
    ),
    Break(
        "float16 ties away from even",
        "quantization", "vec_sse4.h", "splat_int(0xfff)", "splat_int(0x1000)", "dequantize", "x86_v2",
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
        "importance", "vec.h", "if (i < n) body(i, Tail{n - i})", "if (i + 1 < n) body(i, Tail{n - i})", "norm_rows",
    ),
    Break(
        "a tail is written whole",
        "pruning", "vec.h", "  store(p, a, tail.n);", "  store(p, a);", "threshold",
    ),
    Break(
        "infinity passes",
        "importance", "vec.h", "largest(peak) < 0x7f800000", "largest(peak) <= 0x7f800000", "nonfinite and magnitude",
    ),
    Break(
        "a sum of NaN passes",
        "importance", "importance.h",
        "__builtin_isfinite(sums[i])", "sums[i] != __builtin_inff()",
        "nonfinite and norm_rows",
    ),
    Break(
        "the third candidate of a word is lost",
        "selection", "selection.h", "for (; marks; marks &= marks - 1)", "if (0)", "narrows_down",
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
        "grid.seed, first + i",
        "grid.seed, i",
        "quantize-4-stochastic",
    ),
    Break(
        "codes in the order of packing",
        "quantization", "vec_avx2.h",
        "_mm_unpackhi_epi32(low, high)", "_mm_unpacklo_epi32(low, high)",
        "quantize-8-x86",
    ),
    Break(
        "steps above int32 are the lowest",
        "quantization", "vec_avx2.h",
        "_mm256_packs_epi32(nearest_int(min_float(x[0], most))", "_mm256_packs_epi32(nearest_int(x[0])",
        "quantize-8-far",
    ),
    Break(
        "half of each group is not ranged",
        "quantization", "vec_avx2.h",
        "(x, y, 0x20), _mm256_permute2x128_si256(x, y, 0x31));\n}",
        "(x, y, 0x20), _mm256_permute2x128_si256(x, y, 0x20));\n}",
        "quantize-4-x86",
    ),
    Break(
        "tiny scales are not lifted",
        "quantization", "grids.h", "splat(kLift), splat(1.0f)", "splat(1.0f), splat(1.0f)", "quantize-8-x86",
    ),
    Break(
        "an edge belongs to the upper value",
        "codebooks", "vec_avx2.h",
        "child(p, less_float(pick(level_[d], p), x[k]))",
        "child(p, less_equal_float(pick(level_[d], p), x[k]))",
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
        "codebooks", "codebooks.h", "here < found.at", "here > found.at", "fit_clusters-2", "x86_v2",
    ),
    Break(
        "a row has the range of the one above",
        "quantization", "quantization.h",
        "range.see(load(p + next, tail))",
        "range.see(load(p, tail))",
        "quantize-8-channel",
    ),
    Break(
        "the later of equal first scales",
        "quantization", "least_squares.h", "* s < a * a", "* s <= a * a", "quantize-2-mse",
    ),
    Break(
        "grids worse than those of absmax stay",
        "quantization", "mended_grids.h",
        "bool worse = error_of",
        "bool worse = false && error_of",
        "quantize-8-mse-channel",
    ),
    Break(
        "the low bits of ln 2 are lost",
        "distillation", "exponential.h", "splat(kLn2High)) - whole * splat(kLn2Low)", "splat(kLn2High))", "distill",
    ),
    Break(
        "lanes past the end count as classes",
        "distillation", "distillation.h",
        "ended(exp_nonpositive(x), tail, 0)",
        "ended(exp_nonpositive(x), tail, 1)",
        "distill",
    ),
    Break(
        "the label's own logit is not raised",
        "distillation", "distillation.h", "grad[label] -= weight.hard", "grad[0] -= weight.hard", "distill-labels",
    ),
    Break(
        "the student may mask what teachers hold possible",
        "distillation", "distillation.h", "!masks_possible(row, cols, g)", "true", "nonfinite and distill",
    ),
    Break(
        "rows without a label count",
        "distillation", "distillation.h", "labelled += labels[r] >= 0", "labelled += 1", "distill-masked",
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
        "selection", "selection.h", "equal &= equal - 1, --cutoff.ties)", "equal &= equal - 1)", "mask_below",
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
        "sparse", "nonzeros.h", "smaller(group_of(c + j), groups - 1)", "group_of(c)", "sparse_product and asymmetric",
    ),
    Break(
        "csr adds to the lane of the position",
        "sparse", "sparse.h", "lane[columns[i] & 15] += weight[i]", "lane[i & 15] += weight[i]", "sparse_product-csr",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.mark.parametrize("family", families())
def test_control_without_a_break(workshop: Workshop, family: str) -> None:
    """Everything that the breaks of a family are looked for in passes when nothing is broken."""
    plans = [plan for plan in BREAKS if plan.family == family]
    isas = {plan.isa for plan in plans}
    assert isas, "every family has a break"
    cpp = workshop.folder / f"whole-{family}"
    shutil.copytree(ROOT / "cpp", cpp)
    module = workshop.link(cpp.name, {(isa, family): workshop.compile(cpp, isa, family, "-O0") for isa in isas})
    code, output = matrix(module, " or ".join(f"({plan.seen_by} and {plan.isa})" for plan in plans))
    assert code == pytest.ExitCode.OK, output


@pytest.mark.promise("G22")
@pytest.mark.parametrize("number", range(len(BREAKS)), ids=lambda n: BREAKS[n].name)
def test_break_is_seen(workshop: Workshop, number: int) -> None:
    plan = BREAKS[number]
    cpp = workshop.changed(f"broken{number}", plan.file, plan.right, plan.wrong)
    anew = {(plan.isa, plan.family): workshop.compile(cpp, plan.isa, plan.family, "-O0")}
    code, output = matrix(workshop.link(cpp.name, anew), f"{plan.seen_by} and {plan.isa}")
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert "AssertionError" in output
