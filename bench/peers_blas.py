"""BLAS: the OpenBLAS that numpy's wheel carries, called directly."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from contestant import Contestant, in_rows, whole
from tasks import Array, Data


@functools.cache
def library() -> ctypes.CDLL:
    folder = Path(np.__file__).parent.parent / "numpy.libs"
    found = sorted(folder.glob("libscipy_openblas64_*.so*"))
    if not found:
        raise ImportError(f"no OpenBLAS of numpy's wheel in {folder}")
    blas = ctypes.CDLL(str(found[0]))
    for name in ("scipy_cblas_sasum64_", "scipy_cblas_snrm264_"):
        getattr(blas, name).restype = ctypes.c_float
    return blas


def versions() -> dict[str, str]:
    blas = library()
    blas.scipy_openblas_get_config64_.restype = ctypes.c_char_p
    return {"OpenBLAS": blas.scipy_openblas_get_config64_().decode()}


def contestants(task: str, data: Data, threads: int) -> list[Contestant]:
    library().scipy_openblas_set_num_threads64_(threads)
    make = MAKERS.get(task)
    return make(data) if make else []


def _norm_of(function: str, x: Array) -> float:
    norm: float = getattr(library(), function)(
        ctypes.c_int64(x.size), ctypes.c_void_p(x.ctypes.data), ctypes.c_int64(1)
    )
    return norm


def _total(data: Data) -> list[Contestant]:
    out = np.zeros(())

    def call() -> None:
        out[...] = _norm_of("scipy_cblas_sasum64_", data.w)

    return [Contestant("sasum", call, whole(out))]


def _rows(name: str, function: str) -> Callable[[Data], list[Contestant]]:
    def make(data: Data) -> list[Contestant]:
        out = data.like(shape=(data.rows,))

        def call() -> None:
            for i, row in enumerate(data.w):
                out[i] = _norm_of(function, row)

        return [Contestant(name, call, in_rows(out))]

    return make


MAKERS: dict[str, Callable[[Data], list[Contestant]]] = {
    "l1 total": _total,
    "l1 per row": _rows("sasum per row", "scipy_cblas_sasum64_"),
    "l2 per row": _rows("snrm2 per row", "scipy_cblas_snrm264_"),
}
