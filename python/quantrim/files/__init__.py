"""One model in files: read with suspicion, a part at a time; written whole or not at all."""

from .atomic import AtomicFile, AtomicFolder, refuse_another_run, refuse_same_file, remove_stale
from .checkpoint import Checkpoint, open_checkpoint
from .errors import FormatError
from .safetensors import DTYPES, TensorInfo, encode_header, read_header

__all__ = [
    "DTYPES",
    "AtomicFile",
    "AtomicFolder",
    "Checkpoint",
    "FormatError",
    "TensorInfo",
    "encode_header",
    "open_checkpoint",
    "read_header",
    "refuse_another_run",
    "refuse_same_file",
    "remove_stale",
]
