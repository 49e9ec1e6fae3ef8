"""exp and log in float32, by sums and products alone: a library's own differ between machines in the last bit.

Both cut their range by powers of two (Cody and Waite 1980) and take a polynomial of least largest error for the rest.
exp_nonpositive is within 1 unit in the last place of the true value, log within 2.
"""

from __future__ import annotations

import numpy as np

from ..checks import Array

LN2_HIGH = np.float32(0.693145752)  # 17 bits: its product with an exponent is exact
LN2_LOW = np.float32(1.42860677e-6)  # ln 2 = high + low
LOWEST_EXPONENT = np.float32(-87)  # below it e**x counts as 0
ROOT_HALF = np.int32(0x3F3504F3)  # the bits of sqrt(1/2)
EXP = np.array([1.38208899e-3, 8.36868212e-3, 4.16682661e-2, 0.166665211, 0.49999994], np.float32)
LOG = np.array([0.149362639, 0.199887723, 0.33333388], np.float32)


def exp_nonpositive(x: Array) -> Array:
    """Compute e**x for float32 x <= 0: 2**n * e**r with |r| <= ln(2) / 2, and e**r = 1 + (r + r**2 * polynomial)."""
    bounded = np.maximum(x, LOWEST_EXPONENT)
    n = np.rint(bounded * np.float32(1.44269502))
    r = (bounded - n * LN2_HIGH) - n * LN2_LOW
    near_one = (polynomial(EXP, r) * (r * r) + r) + np.float32(1)
    scaled = (near_one.view(np.int32) + (n.astype(np.int32) << 23)).view(np.float32)
    return np.where(x < LOWEST_EXPONENT, np.float32(0), scaled)


def log(x: Array) -> Array:
    """Compute ln x for normal float32 x > 0, finite for 0.

    n ln 2 + ln m, and ln m = 2 artanh s with s = (m - 1) / (m + 1)."""
    above = x.view(np.int32) - ROOT_HALF
    n = (above >> 23).astype(np.float32)
    m = ((above & np.int32(0x7FFFFF)) + ROOT_HALF).view(np.float32)  # x = m * 2**n, m near 1
    s = (m - 1) / (m + 1)
    twice, z = s + s, s * s
    return n * LN2_HIGH + (twice + (polynomial(LOG, z) * z * twice + n * LN2_LOW))


def polynomial(coefficients: Array, x: Array) -> Array:
    """Evaluate a polynomial by Horner's method, the highest power first."""
    value = coefficients[0] * x + coefficients[1]
    for c in coefficients[2:]:
        value = value * x + c
    return value
