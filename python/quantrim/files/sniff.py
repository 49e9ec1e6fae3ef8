"""What a file looks like: the format to read it with where its suffix names none, or why it is refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .base import FORMATS, format_of
from .disk.errors import FormatError, quote
from .disk.source_file import SourceFile

HEAD = 4096  # bytes looked at, at either end of the file
PICKLE_SUFFIXES = (".pkl", ".pickle")  # of pickles of anything; those of torch are read without running them
_PICKLE = "; loading one can run any program, so it is never opened; save it as safetensors first"
_NOT_YET = ", which quantrim does not read yet; "


class _Kind(NamedTuple):
    """format: its name in FORMATS, should it be there. advice: what to do with it where it is not."""

    what: str
    advice: str
    format: str = ""


_GGUF = _Kind("a GGUF file", f"{_NOT_YET}start from the checkpoint that it was made of", "gguf")
_HDF5 = _Kind("an HDF5 file (.h5)", "", "keras")
_KERAS = _Kind("a Keras file (.keras)", "", "keras")
_ONNX = _Kind(
    "an ONNX file", f"{_NOT_YET}save what onnx.numpy_helper.to_array reads with safetensors.numpy.save_file", "onnx"
)
_MSGPACK = _Kind("a msgpack file (Flax)", f"{_NOT_YET}save what flax reads in it with safetensors.flax.save_file")
_TFLITE = _Kind("a TFLite file", f"{_NOT_YET}start from the model that it was made of")
_NPZ = _Kind("an .npz file (a zip of .npy)", "", "npz")
_TORCH = _Kind("a PyTorch file (a zip with data.pkl)", "", "torch")
_GGML = _Kind("an old ggml file", "; start from the checkpoint that it was made of")

_MAGICS = (
    (b"GGUF", _GGUF),
    (b"lmgg", _GGML),
    (b"fmgg", _GGML),
    (b"tjgg", _GGML),
    (b"\x89HDF\r\n\x1a\n", _HDF5),
    (b"\x93NUMPY", _Kind("a .npy file", "", "npy")),
    (b"version https://git-lfs", _Kind("a Git LFS pointer", ": the weights themselves were not downloaded")),
    (b"\x1f\x8b", _Kind("a gzip file", "; unpack it first")),
    (b"\x28\xb5\x2f\xfd", _Kind("a zstd file", "; unpack it first")),
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
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _Kind("a PyTorch file", "", "torch")),
    **dict.fromkeys(PICKLE_SUFFIXES, _Kind("a pickle", _PICKLE)),
    ".tflite": _TFLITE,
}


def format_inside(path: Path) -> str:
    """Return the name in FORMATS of what the bytes of a file look like; safetensors where that is none of these."""
    file = SourceFile(path)
    try:
        found = _kind(file)
    finally:
        file.close()
    return found.format if found is not None and found.format in FORMATS else "safetensors"


def refuse_pickle_suffix(path: Path) -> None:
    """Raise FormatError for the suffixes of pickles that may hold anything. OSError where there is no such file at
    all."""
    if path.suffix.lower() in PICKLE_SUFFIXES and format_of(path) is None:
        path.stat()
        raise FormatError(f"{path.suffix} files hold pickles{_PICKLE}", path=path)


def looks_like(file: SourceFile) -> str:
    """Say '; it looks like a GGUF file, ...', with what to do about it, or '' where nothing is recognised. For a file
    already refused."""
    found = _kind(file)
    if found is None:
        return ""
    known = FORMATS.get(found.format)
    if known is not None and file.path.suffix.lower() in known.suffixes:
        return ""  # its reader has said what is wrong with it
    advice = found.advice if known is None else f": give it the suffix {' or '.join(known.suffixes)}"
    return f"; it looks like {found.what}{advice}"


def _kind(file: SourceFile) -> _Kind | None:
    count = min(HEAD, file.size)
    head, tail = bytes(file.read(count, 0)), bytes(file.read(count, file.size - count))
    if not head.strip(b"\0"):
        return _Kind("zeros, an unfinished download", "")
    if head[:4] == b"PK\x03\x04":
        return _kind_of_zip(head + tail)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _Kind("a pickle (.pt, .bin, .pkl)", "", "torch")
    if head[4:8] == b"TFL3":
        return _TFLITE
    text = head.lstrip()[:16].lower()
    if text.startswith((b"<!doctype", b"<html")):
        return _Kind("a web page, an error message saved by a download", "")
    if text.startswith((b"{", b"[")):
        advice = f"; give the model's folder, {quote(file.path.parent)}, or a .safetensors file"
        return _Kind("a JSON file", advice)
    by_content = next((kind for magic, kind in _MAGICS if head.startswith(magic)), None)
    return by_content or _SUFFIXES.get(file.path.suffix.lower())


def _kind_of_zip(names: bytes) -> _Kind:
    if b"data.pkl" in names:
        return _TORCH
    if b".weights.h5" in names:
        return _KERAS
    return _NPZ if b".npy" in names else _Kind("a zip file", "; unpack it first")


def what_a_folder_has(folder: Path, names: Iterable[str]) -> str:
    """Say '; ...': what weights there are in a folder that has none that are read from folders, '' where there are
    none."""
    names = sorted(names)
    for name in names:
        kind = _SUFFIXES.get(Path(name).suffix.lower())
        if kind is not None:
            advice = f": name that file, {quote(folder / name)}" if kind.format in FORMATS else kind.advice
            return f"; {quote(name)} is {kind.what}{advice}"
    below = [name for name in names if any((folder / name).glob("*.safetensors"))]
    return f"; there is one in {quote(folder / below[0])}: name that folder" if below else ""
