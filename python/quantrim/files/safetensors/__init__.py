"""The safetensors format."""

from ..tensor_info import DTYPES as DTYPES
from ..tensor_info import TensorInfo as TensorInfo
from ..tensor_info import count_bytes as count_bytes
from .header import HEADER_LIMIT as HEADER_LIMIT
