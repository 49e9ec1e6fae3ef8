"""The AVX-512 kernels where there is no AVX-512: their source compiled against a model of its instructions.

Breaks in what is AVX-512's alone are planted here: on such a processor in the kernels themselves, elsewhere in the
model's.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel_families import ROOT, families
from kernel_workshop import Workshop, matrix

import quantrim as qt

pytestmark = pytest.mark.slow

MODEL = ["-O1", "-Dflatten=unused", "-I", str(Path(__file__).parent / "avx512_model")]
MODELLED = "x86_v3"  # in whose place the module has the model's: their lanes are AVX2 and plain C++
NATIVE = "x86_v4"
BREAKS = {
    "half of the lanes twice": ("importance", "f32x8_ps(a, 1)", "f32x8_ps(a, 0)", "norm_rows"),
    "truncation instead of rounding": (
        "quantization",
        "_mm512_cvtps_epi32(a)",
        "_mm512_cvtps_epi32(trunc_float(a))",
        "quantize-4",
    ),
    "half of each group is not ranged": (
        "quantization",
        "return max_int(_mm512_shuffle_i32x4(x, y, 0x88), _mm512_shuffle_i32x4(x, y, 0xdd))",
        "return max_int(_mm512_shuffle_i32x4(x, y, 0x88), _mm512_shuffle_i32x4(x, y, 0x88))",
        "quantize-4",
    ),
    "nibbles in another order": ("quantization", "12, 13, 2, 3,", "2, 3, 12, 13,", "quantize-4"),
    "codes in the order of packing": ("quantization", "(0, 2, 4, 6, 1,", "(0, 1, 4, 6, 2,", "quantize-8"),
}


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    if MODELLED not in qt.isas():
        pytest.skip("needs AVX2")
    return Workshop(tmp_path)


@pytest.mark.promise("G7")
def test_same_bits_as_reference(workshop: Workshop) -> None:
    """All rows of tests/cases.py."""
    if NATIVE in qt.isas():
        pytest.skip("test_kernels.py runs the AVX-512 kernels on this processor")
    anew = {(MODELLED, family): workshop.compile(ROOT / "cpp", MODELLED, family, *MODEL) for family in families()}
    seldom = "fit_tensor-mse or fit_clusters-3 or fit_clusters-x86"  # long, and made of kernels that others run too
    code, output = matrix(workshop.link("model", anew), f"{MODELLED} and same_bits and not ({seldom})")
    assert code == pytest.ExitCode.OK, output


@pytest.mark.promise("G22")
@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_seen(workshop: Workshop, name: str) -> None:
    family, right, wrong, seen_by = BREAKS[name]
    isa, flags = (NATIVE, ["-O0"]) if NATIVE in qt.isas() else (MODELLED, MODEL)
    cpp = workshop.changed("broken", "vec_avx512.h", right, wrong)
    anew = {(isa, family): workshop.compile(cpp, isa, family, *flags)}
    code, output = matrix(workshop.link("broken", anew), f"{seen_by} and {isa}")
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert "AssertionError" in output
