"""One tensor in other people's bytes: exact encoders and decoders, no files."""

from . import codebook, compressed_tensors, sparse_bitmask

__all__ = ["codebook", "compressed_tensors", "sparse_bitmask"]
