"""One tensor in other people's bytes: exact encoders and decoders, no files."""

from . import compressed_tensors, sparse_bitmask

__all__ = ["compressed_tensors", "sparse_bitmask"]
