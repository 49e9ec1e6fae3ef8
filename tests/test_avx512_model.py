"""The AVX-512 kernels where there is no AVX-512: their source compiled against a model of its instructions."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel_families import ROOT, families
from kernel_workshop import Workshop, matrix

import quantrim as qt

MODEL = ["-O1", "-Dflatten=unused", "-I", str(Path(__file__).parent / "avx512_model")]
NAME = "x86_v3"  # in whose place the module has them: the model's lanes are AVX2 and plain C++


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    if "x86_v4" in qt.isas():
        pytest.skip("test_kernels.py runs the AVX-512 kernels on this processor")
    if NAME not in qt.isas():
        pytest.skip("needs AVX2")
    return Workshop(tmp_path)


@pytest.mark.slow
def test_same_bits_as_reference(workshop: Workshop) -> None:
    """G7, all rows of tests/cases.py."""
    anew = {(NAME, family): workshop.compile(ROOT / "cpp", NAME, family, *MODEL) for family in families()}
    seldom = "fit_tensor-mse or fit_clusters-3 or fit_clusters-x86"  # long, and made of kernels that others run too
    code, output = matrix(workshop.link("model", anew), f"{NAME} and same_bits and not ({seldom})")
    assert code == pytest.ExitCode.OK, output


@pytest.mark.slow
def test_a_break_is_seen(workshop: Workshop) -> None:
    cpp = workshop.changed("broken", "vec_avx512.h", "_mm512_extractf32x8_ps(a, 1)", "_mm512_extractf32x8_ps(a, 0)")
    anew = {(NAME, "importance"): workshop.compile(cpp, NAME, "importance", *MODEL)}
    code, output = matrix(workshop.link("broken", anew), f"{NAME} and norm_rows")
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert "AssertionError" in output
