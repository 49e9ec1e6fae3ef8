"""The distillation loss with masked classes and ignored labels, as torch computes and differentiates it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quantrim.distillation import distillation_loss

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="needs torch: pip install quantrim[interop]")


@pytest.mark.promise("fault-D5")
@pytest.mark.parametrize("temperature,alpha", [(1.0, 0.5), (4.0, 0.9), (2.0, 0.0)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masked_classes_and_ignored_labels(dtype: str, temperature: float, alpha: float) -> None:
    functional = torch.nn.functional
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(64, 100, generator=random).to(getattr(torch, dtype)) for _ in "st")
    masked = torch.rand(64, 100, generator=random) < 0.3
    masked[:, 7] = False
    student[masked] = teacher[masked] = -torch.inf
    teacher[:, 11] = -torch.inf
    labels = torch.full((64,), 7)
    labels[::3] = -100
    x = student.float().requires_grad_()
    log_q = functional.log_softmax(x / temperature, 1)
    p = functional.softmax(teacher.float() / temperature, 1)
    divergence = torch.where(p > 0, p * (p.clamp_min(1e-45).log() - log_q.where(p > 0, p)), p).sum() / 64
    loss = alpha * temperature**2 * divergence + (1 - alpha) * functional.cross_entropy(x, labels)
    loss.backward()
    found, grad = distillation_loss(student, teacher, labels, temperature=temperature, alpha=alpha)
    assert found == pytest.approx(loss.item(), rel=2e-6)
    assert np.isfinite(grad).all() and not grad[masked.numpy()].any()
    assert np.abs(grad - x.grad.numpy()).max() <= 1e-6


@pytest.mark.promise("fault-D5")
def test_no_label_counts() -> None:
    """torch gives NaN, the mean of nothing; here that part is 0."""
    x = torch.randn(4, 5)
    none = torch.full((4,), -100)
    assert torch.nn.functional.cross_entropy(x, none).isnan()
    loss, grad = distillation_loss(x, x, none, alpha=0)
    assert loss == 0 and not grad.any()
