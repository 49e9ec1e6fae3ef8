"""PyTorch state dicts (.pt, .pth, .bin, .ckpt), read without running anything that is in them."""

from .reader import TorchReader

__all__ = ["TorchReader"]
