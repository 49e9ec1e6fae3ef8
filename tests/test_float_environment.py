"""Callers whose thread flushes subnormals or rounds otherwise get the same bits and keep their settings."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from functions import FUNCTIONS, Array, bits_of
from model_helpers import save

import quantrim as qt

GCC = shutil.which("gcc")
HELPER = """
#if defined(__x86_64__)
#include <xmmintrin.h>
unsigned long get(void) { return _mm_getcsr() & ~0x3fu; }  /* without the flags of exceptions that happened */
void set(unsigned long bits) { _mm_setcsr((unsigned)bits); }
#else
unsigned long get(void) { unsigned long x; __asm__("mrs %0, fpcr" : "=r"(x)); return x; }
void set(unsigned long bits) { __asm__("msr fpcr, %0" : : "r"(bits)); }
#endif
"""
if platform.machine() == "x86_64":
    DEFAULT = 0x1F80
    MODES = {
        "flush": DEFAULT | 0x8040,
        "down": DEFAULT | 0x2000,
        "up": DEFAULT | 0x4000,
        "zero": DEFAULT | 0x6000,
    }
else:
    DEFAULT = 0
    MODES = {"flush": 1 << 24, "down": 2 << 22, "up": 1 << 22, "zero": 3 << 22}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    """get() and set() of the register that holds rounding and flushing."""
    if not GCC:
        pytest.skip("needs gcc to build a helper that sets MXCSR or FPCR")
    folder: Path = tmp_path_factory.mktemp("control")
    (folder / "control.c").write_text(HELPER)
    subprocess.run([GCC, "-O1", "-shared", "-fPIC", "control.c", "-o", "control.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "control.so"))
    library.get.restype, library.set.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    yield library
    library.set(DEFAULT)


def in_mode(control: ctypes.CDLL, bits: int, call: Callable[[], Any]) -> Any:
    """What the call returns in that mode; the mode must outlive it."""
    control.set(bits)
    try:
        return call()
    finally:
        after = control.get()
        control.set(DEFAULT)
        assert after == bits


def weights() -> Array:
    """Normal rows, and rows of subnormals alone and among others."""
    w = np.random.default_rng(0).standard_normal((40, 96)).astype(np.float32)
    w[3] *= np.float32(1e-40)
    w[5, ::3] *= np.float32(1e-42)
    return w


W = weights()
SUBNORMAL = (W[:4] * np.float32(1e-39)).copy()
QUANTIZED = qt.quantize(W, 4, group_size=32)
GIVEN = np.linspace(0.1, 2, 40)[:, None]
TINY = np.float32(1e-40)
LARGE = np.concatenate([SUBNORMAL.reshape(-1), W.reshape(-1)] * 80)
DOUBLES = W.astype(np.float64) / 3
MORE: dict[str, Callable[[], Any]] = {
    "quantize-mse": lambda: qt.quantize(W, 3, group_size=32, scale="mse"),
    "quantize-asymmetric": lambda: qt.quantize(W, 5, group_size=7, symmetric=False),
    "quantize-power_of_two": lambda: qt.quantize(W, 4, scale="power_of_two"),
    "quantize-stochastic": lambda: qt.quantize(W, 4, rounding="stochastic", seed=2),
    "quantize-away": lambda: qt.quantize(W, 4, rounding="away"),
    "quantize-float16": lambda: qt.quantize(W, 4, scale_dtype="float16"),
    "quantize-subnormal": lambda: qt.quantize(SUBNORMAL, 8),
    "dequantize": lambda: QUANTIZED.dequantize(),
    "dequantize-float16": lambda: QUANTIZED.dequantize(dtype=np.float16),
    "random": lambda: qt.importance.random(1000, 3),
    "prune_mask-subnormal": lambda: qt.prune_mask(SUBNORMAL, 0.5),
    "prune_mask-large": lambda: qt.prune_mask(LARGE, 0.4),
    "sparsity-subnormal": lambda: qt.sparsity(SUBNORMAL),
    "threshold-narrowed": lambda: qt.threshold(W, 0.3, mode="soft"),
    "threshold-subnormal": lambda: qt.threshold(SUBNORMAL, 1e-40),
    "float64": lambda: qt.importance.magnitude(DOUBLES),
    "float64-soft": lambda: qt.threshold(DOUBLES, 0.1, mode="soft"),
    "float64-rows": lambda: qt.pruning.shrink(DOUBLES, l1=0.7, l2=0.1, axis=1),
    "float64-prune": lambda: qt.prune(DOUBLES, 0.3),
    "round_to_int-tenths": lambda: qt.round_to_int(W, 0.7),
    "prune_mask-tie": lambda: qt.prune_mask(np.arange(45), 0.1),  # 4.5, or more where 0.1 * 45 is rounded up
    "global_masks-tie": lambda: qt.pruning.global_masks([np.arange(45)], 0.1)[0],
    "quantize-given": lambda: qt.quantize(W, 4, scales=GIVEN),
    "quantize-given-subnormal": lambda: qt.quantize(SUBNORMAL, 4, scales=TINY),
    "quantize-tensor-subnormal": lambda: qt.quantize(SUBNORMAL, 4, group_size="tensor", symmetric=False),
}

ROWS = {f.name: (lambda f=f: f.call(W)) for f in FUNCTIONS if f.kind == "floats"} | MORE


@pytest.mark.promise("A6", "F121")
@pytest.mark.parametrize("isa", [qt.isas()[0], "reference"])
@pytest.mark.parametrize("call", ROWS.values(), ids=ROWS)
def test_same_bits_in_every_mode(call: Callable[[], Any], isa: str, control: ctypes.CDLL) -> None:
    with qt.use_isa(isa):
        want = bits_of(call())
        for name, bits in MODES.items():
            for threads in (1, 3):
                with qt.use_threads(threads):
                    assert bits_of(in_mode(control, bits, call)) == want, name


@pytest.mark.promise("A6", "F121")
def test_same_file_in_every_mode(control: ctypes.CDLL, tmp_path: Path) -> None:
    """Threads that compress starts inherit a mode; its report is arithmetic too."""
    options = {"group_size": 32, "symmetric": False, "prune": 0.3, "min_elements": 0}
    save(tmp_path / "model.safetensors", {"a.weight": W, "b.weight": SUBNORMAL, "c.weight": DOUBLES})

    def run(name: str) -> Any:
        target = tmp_path / f"{name}.safetensors"
        report = qt.compress(tmp_path / "model.safetensors", target, scale_dtype="float32", **options)
        return target.read_bytes(), [(t.sparsity, t.snr_db, t.cosine, t.worst) for t in report.tensors], report.snr_db

    want = run("default")
    for name, bits in MODES.items():
        assert in_mode(control, bits, partial(run, name)) == want, name


@pytest.mark.promise("A6", "F121")
def test_a_mode_outlives_an_error(control: ctypes.CDLL) -> None:
    for bits in MODES.values():
        with pytest.raises(ValueError, match="NaN or infinite"):
            in_mode(control, bits, lambda: qt.quantize(np.array([[np.nan]], np.float32)))


@pytest.mark.promise("A6")
def test_control_a_step_outside_is_found(control: ctypes.CDLL) -> None:
    """The same functions without what guards them show the caller's mode."""
    bare = qt.importance.share.__wrapped__  # type: ignore[attr-defined]
    want = bits_of(qt.importance.share(W))
    assert any(bits_of(in_mode(control, bits, lambda: bare(W))) != want for bits in MODES.values())


def test_the_modes_are_real(control: ctypes.CDLL) -> None:
    """The helper does what it says, or the tests above would show nothing."""
    third, tiny = np.float32(1) / np.float32(3), np.float32(1e-38)
    seen = {name: in_mode(control, bits, lambda: np.float32(1) / np.float32(3)) for name, bits in MODES.items()}
    assert seen["up"] == third
    assert seen["down"] == seen["zero"] == np.nextafter(third, np.float32(0))
    assert in_mode(control, MODES["flush"], lambda: float(tiny / np.float32(3))) == 0 < tiny / np.float32(3)
