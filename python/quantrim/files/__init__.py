"""One model in files: read with suspicion, a piece at a time; written whole or not at all."""

from .base import FORMATS, Format, MakeWriter, Reader, Writer, writer_for
from .checkpoint import Checkpoint, open_checkpoint
from .disk.atomic import AtomicFile, AtomicFolder
from .disk.errors import FormatError
from .disk.overlap import refuse_same_file
from .disk.temporaries import refuse_another_run, remove_stale
from .safetensors.header import encode_header, read_header
from .tensor_info import DTYPES, TensorInfo

__all__ = [
    "DTYPES",
    "FORMATS",
    "AtomicFile",
    "AtomicFolder",
    "Checkpoint",
    "Format",
    "FormatError",
    "MakeWriter",
    "Reader",
    "TensorInfo",
    "Writer",
    "encode_header",
    "open_checkpoint",
    "read_header",
    "refuse_another_run",
    "refuse_same_file",
    "remove_stale",
    "writer_for",
]
