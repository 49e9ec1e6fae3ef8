"""Tensors and Parameters of torch as arguments, of every dtype that weights have; torch itself is never imported."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from functions import FLOATS, bits_of

import quantrim as qt

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")


@pytest.mark.promise("fault-D17")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int8", "int64"])
def test_tensors_and_parameters(dtype: str) -> None:
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).mul(20).to(getattr(torch, dtype))
    want = np.asarray(x.float() if dtype == "bfloat16" else x)
    want = want.astype(FLOATS["bfloat16"]) if dtype == "bfloat16" else want
    tensors = [x, torch.nn.Parameter(x, requires_grad=x.is_floating_point())]
    for w in tensors:
        assert bits_of(qt.quantize(w, 4, group_size=32)) == bits_of(qt.quantize(want, 4, group_size=32))
        assert bits_of(qt.prune(w.T, 0.5)) == bits_of(qt.prune(want.T, 0.5))
        assert bits_of(qt.prune(w[:, ::2], 0.5, scores=w[:, 1::2])) == bits_of(
            qt.prune(want[:, ::2], 0.5, scores=want[:, 1::2])
        )
        small = qt.splitting.remove_units([(w, None), (w.T, None)], [[0, 3]])
        assert small[0][0].shape == (2, 64)
    assert tensors[1].requires_grad == x.is_floating_point()


@pytest.mark.promise("fault-D17")
def test_tensors_elsewhere_say_how() -> None:
    for tensor, told in (
        (torch.ones(2, 2, dtype=torch.bfloat16, device="meta"), r"meta device .* Use Tensor\.cpu\(\)"),
        (torch.ones(2, 2, dtype=torch.bfloat16).to_sparse(), r"Use Tensor\.to_dense\(\)"),
        (torch.ones(2, 2, dtype=torch.float8_e4m3fn), "Float8_e4m3fn"),
    ):
        with pytest.raises(TypeError, match=f"w must be an array that numpy can read, not Tensor: .*{told}"):
            qt.prune(tensor, 0.5)


@pytest.mark.promise("fault-D17")
def test_torch_is_not_imported() -> None:
    code = "import sys, quantrim as qt; qt.prune([1.0], 0.5); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
