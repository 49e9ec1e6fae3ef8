"""What a file that is not safetensors looks like, so that the refusal helps."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import FormatError

HEAD = 4096  # bytes looked at, at either end of the file
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".h5", ".hdf5", ".keras")
_PICKLE = "; loading one can run any program, so it is never opened; save it as safetensors first"

_MAGICS = (
    (b"GGUF", "a GGUF file"),
    (b"lmgg", "an old ggml file"),
    (b"fmgg", "an old ggml file"),
    (b"tjgg", "an old ggml file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5, .keras)" + _PICKLE),
    (b"\x93NUMPY", "a .npy file"),
    (b"version https://git-lfs", "a Git LFS pointer: the weights themselves were not downloaded"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\x08", "an ONNX file (protobuf)"),
)


def refuse_pickle_suffix(path: Path) -> None:
    """FormatError for the suffixes of formats that execute code when they are loaded."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise FormatError(f"{path.suffix} files hold pickles or other code{_PICKLE}", path=path)


def looks_like(fd: int, size: int) -> str:
    """'; it looks like a GGUF file', or '' when nothing is recognised. For a file already refused."""
    head = os.pread(fd, HEAD, 0)
    tail = os.pread(fd, HEAD, max(size - HEAD, 0))
    guess = _guess(head, tail)
    return f"; it looks like {guess}" if guess else ""


def _guess(head: bytes, tail: bytes) -> str | None:
    if not head.strip(b"\0"):
        return "an empty file" if not head else "zeros, an unfinished download"
    if head[:4] == b"PK\x03\x04":
        return _guess_zip(head + tail)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle (.pt, .bin, .pkl)" + _PICKLE
    if head[4:8] == b"TFL3":
        return "a TFLite file"
    text = head.lstrip()[:16].lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page, an error message saved by a download"
    if text.startswith((b"{", b"[")):
        return "a JSON file"
    return next((name for magic, name in _MAGICS if head.startswith(magic)), None)


def _guess_zip(names: bytes) -> str:
    if b"data.pkl" in names:
        return "a PyTorch file (a zip with data.pkl, a pickle)" + _PICKLE
    if b".weights.h5" in names:
        return "a Keras file" + _PICKLE
    return "an .npz file (a zip of .npy)" if b".npy" in names else "a zip file"
