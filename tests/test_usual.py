"""One look at arguments of the usual kind, against the long one: it may miss some, never take one that is not."""

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


@pytest.mark.parametrize(
    "out,shape,dtype,inputs,usual",
    [
        (W, (4, 6), np.float32, [], True),
        (W, (4, 6), np.dtype(np.float32), [W.copy()], True),
        (W[:2], (2, 6), np.float32, [W[2:]], True),
        (USUAL["bfloat16"], (4, 6), ml_dtypes.bfloat16, [W], True),
        (USUAL["bfloat16"], (4, 6), np.dtype(ml_dtypes.bfloat16), [W], True),
        (W, (4, 6), np.float32, [W], False),
        (W[:3], (3, 6), np.float32, [W[2:]], False),
        (W[2:], (2, 6), np.float32, [W[:3]], False),
        (W, (4, 6), np.float32, [W.copy(), W[3:]], False),
        (W, (4, 6), np.float32, [W[:, ::2]], False),
        (W, (4, 6), np.float32, [[1.0]], False),
        (W, (6, 4), np.float32, [], False),
        (W, (24,), np.float32, [], False),
        (W, (4,), np.float32, [], False),
        (W, (4, 2**70), np.float32, [], False),
        (W, (4, 6), np.int32, [], False),
        (W, (4, 6), np.float16, [], False),
        (UNUSUAL["big-endian"], (4, 6), np.float32, [], False),
        (UNUSUAL["strided"], (4, 3), np.float32, [], False),
        (UNUSUAL["subclass"], (4, 6), np.float32, [], False),
        (MISALIGNED, (4, 6), np.float32, [], False),
        (USUAL["read-only"], (4, 6), np.float32, [], False),
        (None, (4, 6), np.float32, [], False),
    ],
)
def test_usual_output(
    out: Any, shape: tuple[int, ...], dtype: Any, inputs: list[Any], usual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _core.usual_output(out, shape, dtype, *inputs) is usual
    if usual:  # the long look agrees
        monkeypatch.setattr(checks, "_core", Never)
        assert checks.output(out, shape, dtype, *inputs, in_place=False) is out


class Never:
    @staticmethod
    def usual_output(*_: object) -> bool:
        return False


@pytest.mark.parametrize(
    "a,length,usual",
    [
        (W[0], 6, True),
        (np.zeros(0, np.float32), 0, True),
        (W[0], 5, False),
        (W, 4, False),
        (W[0].astype(np.float16), 6, False),
        (-W[0] - 1, 6, False),
        (np.float32([0, np.nan]), 2, False),
        (np.float32([np.inf, 0]), 2, False),
        (np.float32([-0.0, np.finfo(np.float32).max]), 2, True),
    ],
)
def test_usual_vector(a: Any, length: int, usual: bool) -> None:
    assert _core.usual_vector(a, length) is usual
