"""What bitsandbytes makes of its own bytes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="needs torch: pip install quantrim[interop]")
functional: Any = pytest.importorskip("bitsandbytes.functional", reason="needs bitsandbytes: pip install bitsandbytes")


def dequantized(codes: Any, state: Any) -> Any:
    """`dequantize_4bit`, of all weights as one row: its kernel for AVX-512 (0.50) takes the scales of whole blocks of
    each row, and gives other weights than its others where a block ends within a row."""
    flat = copy.copy(state)
    flat.shape = torch.Size((1, state.shape.numel()))
    return functional.dequantize_4bit(codes, flat).reshape(state.shape)
