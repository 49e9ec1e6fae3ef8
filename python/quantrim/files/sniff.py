"""What a file that is not safetensors looks like, so that the refusal helps."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .errors import FormatError, quote

HEAD = 4096  # bytes looked at, at either end of the file
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
_PICKLE = "; loading one can run any program, so it is never opened; save it as safetensors first"
_NOT_YET = ", which quantrim does not read yet; "

_GGUF = f"a GGUF file{_NOT_YET}start from the checkpoint that it was made of"
_HDF5 = f"an HDF5 file (.h5){_NOT_YET}save what h5py or Keras reads in it with safetensors.numpy.save_file"
_KERAS = f"a Keras file (.keras){_NOT_YET}save the weights of the model with safetensors.numpy.save_file"
_NPZ = f"an .npz file (a zip of .npy){_NOT_YET}save what numpy.load reads with safetensors.numpy.save_file"
_NPY = f"a .npy file{_NOT_YET}save what numpy.load reads with safetensors.numpy.save_file"
_ONNX = f"an ONNX file{_NOT_YET}save what onnx.numpy_helper.to_array reads with safetensors.numpy.save_file"
_MSGPACK = f"a msgpack file (Flax){_NOT_YET}save what flax reads in it with safetensors.flax.save_file"
_TFLITE = f"a TFLite file{_NOT_YET}start from the model that it was made of"
_UNPACK = "; unpack it first"

_MAGICS = (
    (b"GGUF", _GGUF),
    (b"lmgg", "an old ggml file; start from the checkpoint that it was made of"),
    (b"fmgg", "an old ggml file; start from the checkpoint that it was made of"),
    (b"tjgg", "an old ggml file; start from the checkpoint that it was made of"),
    (b"\x89HDF\r\n\x1a\n", _HDF5),
    (b"\x93NUMPY", _NPY),
    (b"version https://git-lfs", "a Git LFS pointer: the weights themselves were not downloaded"),
    (b"\x1f\x8b", "a gzip file" + _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file" + _UNPACK),
    (b"\x08", _ONNX),
)
_SUFFIXES = {  # what begins with no bytes of its own
    ".msgpack": _MSGPACK,
    ".onnx": _ONNX,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".keras": _KERAS,
    ".gguf": _GGUF,
    ".npz": _NPZ,
    ".tflite": _TFLITE,
}


def refuse_pickle_suffix(path: Path) -> None:
    """FormatError for the suffixes of formats that execute code when they are loaded. OSError where there is no such
    file at all."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        path.stat()
        raise FormatError(f"{path.suffix} files hold pickles{_PICKLE}", path=path)


def looks_like(fd: int, size: int, path: Path) -> str:
    """'; it looks like a GGUF file, ...', with what to do about it, or '' when nothing is recognised. For a file
    already refused."""
    guess = _guess(os.pread(fd, HEAD, 0), os.pread(fd, HEAD, max(size - HEAD, 0)), path)
    return f"; it looks like {guess}" if guess else ""


def _guess(head: bytes, tail: bytes, path: Path) -> str | None:
    if not head.strip(b"\0"):
        return "zeros, an unfinished download"
    if head[:4] == b"PK\x03\x04":
        return _guess_zip(head + tail)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle (.pt, .bin, .pkl)" + _PICKLE
    if head[4:8] == b"TFL3":
        return _TFLITE
    text = head.lstrip()[:16].lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page, an error message saved by a download"
    if text.startswith((b"{", b"[")):
        return f"a JSON file; give the model's folder, {quote(path.parent)}, or a .safetensors file"
    by_content = next((name for magic, name in _MAGICS if head.startswith(magic)), None)
    return by_content or _SUFFIXES.get(path.suffix.lower())


def _guess_zip(names: bytes) -> str:
    if b"data.pkl" in names:
        return "a PyTorch file (a zip with data.pkl, a pickle)" + _PICKLE
    if b".weights.h5" in names:
        return _KERAS
    return _NPZ if b".npy" in names else "a zip file" + _UNPACK


def what_a_folder_has(folder: Path, names: Iterable[str]) -> str:
    """'; ...': what weights there are in a folder that has none in safetensors, '' where there are none."""
    names = sorted(names)
    pickles = [name for name in names if Path(name).suffix.lower() in PICKLE_SUFFIXES]
    if pickles:
        return f"; {quote(pickles[0])} is a pickle{_PICKLE}"
    others = [(name, _SUFFIXES[Path(name).suffix.lower()]) for name in names if Path(name).suffix.lower() in _SUFFIXES]
    if others:
        return f"; {quote(others[0][0])} is {others[0][1]}"
    below = [name for name in names if any((folder / name).glob("*.safetensors"))]
    return f"; there is one in {quote(folder / below[0])}: name that folder" if below else ""
