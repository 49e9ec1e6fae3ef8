"""The fast path for weights that need no conversion: it may miss some, but takes none that the checks would change."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quantrim import _core, checks

W = np.arange(24, dtype=np.float32).reshape(4, 6)
MISALIGNED = np.zeros(W.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(4, 6)


def read_only(a: np.ndarray) -> np.ndarray:
    locked = a.copy()
    locked.flags.writeable = False
    return locked


class Subclass(np.ndarray):
    pass


USUAL: dict[str, Any] = {
    "float32": W,
    "float16": W.astype(np.float16),
    "bfloat16": W.astype(ml_dtypes.bfloat16),
    "rows of a larger array": W[1:3],
    "read-only": read_only(W),
    "empty": np.zeros((0, 3), np.float32),
}
UNUSUAL: dict[str, Any] = {
    "a list": W.tolist(),
    "None": None,
    "float64": W.astype(np.float64),
    "int32": W.astype(np.int32),
    "big-endian": W.astype(">f4"),
    "strided": W[:, ::2],
    "Fortran": np.asfortranarray(W),
    "misaligned": MISALIGNED,
    "no axis": np.float32(1).reshape(()),
    "a scalar": np.float32(1),
    "masked": np.ma.masked_array(W),
    "subclass": W.view(Subclass),
}


@pytest.mark.parametrize("a", USUAL.values(), ids=USUAL)
def test_usual_input(a: np.ndarray) -> None:
    assert _core.usual_input(a)
    assert checks.floats("w", a) is a


@pytest.mark.parametrize("a", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_input(a: object) -> None:
    assert not _core.usual_input(a)
