"""Where results go when the caller brings the array."""

from __future__ import annotations

from numpy.typing import DTypeLike

from . import backend, checks


def output(out: object, shape: tuple[int, ...], dtype: DTypeLike, **inputs: checks.Array) -> checks.Array:
    """`checks.output`, where `out` may be one of `inputs`.

    Then the weights among them are looked through first, so that an error leaves them as they were.
    """
    into = checks.output(out, shape, dtype, *inputs.values())
    if out is not None and any(checks.same_buffer(into, a) for a in inputs.values()):
        for name, a in inputs.items():
            if a.dtype in checks.FLOATS:
                checks.finite(name, a, backend.active.is_finite(a.reshape(-1)))
    return into
