"""One tensor in other people's bytes: exact encoders and decoders, no files."""

from . import bitsandbytes, codebook, compressed_tensors, sparse_bitmask

__all__ = ["bitsandbytes", "codebook", "compressed_tensors", "sparse_bitmask"]
