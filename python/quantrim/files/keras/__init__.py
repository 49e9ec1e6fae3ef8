"""Keras models and weights (.keras, .weights.h5, .h5): tensors out of them, and floats back into a copy of the file."""

from .reader import KerasReader
from .writer import KerasWriter

__all__ = ["KerasReader", "KerasWriter"]
