"""NF4 and FP4 of bitsandbytes: its bytes from our codes, and its weights from our bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quantrim as qt

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="needs torch: pip install quantrim[interop]")
functional: Any = pytest.importorskip("bitsandbytes.functional", reason="needs bitsandbytes: pip install bitsandbytes")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size,block", [(64 * 1000, 64), (128 * 33, 128), (4096 * 8, 4096)])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_same_bytes(name: str, size: int, block: int, dtype: str) -> None:
    """Blocks of the flat tensor, the first of two codes in the high half of a byte."""
    rng = np.random.default_rng(size)
    for scale in (1.0, 1e-3, 100.0):
        w = torch.from_numpy((rng.standard_normal(size) * scale).astype(np.float32)).to(getattr(torch, dtype))
        w[::17] = 0
        w[block : 2 * block] = 0
        theirs, state = functional.quantize_4bit(w, blocksize=block, quant_type=name)
        ours = qt.quantize_codebook(w.float().numpy()[None], name, group_size=block)
        assert (ours.data >> 4 | ours.data << 4).tobytes() == theirs.numpy().tobytes()
        assert ours.scales.tobytes() == state.absmax.numpy().tobytes()
        back = functional.dequantize_4bit(theirs, state).float().numpy().reshape(-1)
        assert np.array_equal(ours.dequantize(dtype=np.dtype(dtype)).astype(np.float32)[0], back)
