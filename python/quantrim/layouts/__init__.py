"""One tensor in other people's bytes: exact encoders and decoders, no files."""

from . import bitsandbytes, byte_planes, codebook, compressed_tensors, sparse_bitmask

__all__ = ["bitsandbytes", "byte_planes", "codebook", "compressed_tensors", "sparse_bitmask"]
