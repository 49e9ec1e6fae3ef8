"""Files and folders that hold weights in another format, or none: what they are, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from files_helpers import entry, raw_file

from quantrim.files import FormatError, open_checkpoint, read_header

READABLE = raw_file({"a": entry("F32", [2], 0, 8)}, bytes(8))
SUFFIXES = {
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".keras": "Keras",
    ".onnx": "ONNX",
    ".msgpack": "Flax",
    ".gguf": "GGUF",
    ".npz": "npz",
    ".tflite": "TFLite",
}


def refused(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_D9_other_formats_by_suffix(tmp_path: Path, suffix: str) -> None:
    """Where the bytes say nothing. What is safetensors after all is read."""
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\xde" * 99)
    message = refused(path)
    assert SUFFIXES[suffix] in message and "does not read yet" in message and "pickle" not in message
    path.write_bytes(READABLE)
    assert list(read_header(path)[0]) == ["a"]


def test_D25_a_config_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "bert"}')
    message = refused(path)
    assert f"a JSON file; give the model's folder, {str(tmp_path)!r}" in message and "found" not in message


def test_D25_a_missing_pickle_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "pytorch_model.bin")


def test_D25_an_empty_file_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    assert refused(path).endswith("an empty file: file ends at byte 0")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model.bin", "'pytorch_model.bin' is a pickle; loading one can run any program"),
        ("model.gguf", "'model.gguf' is a GGUF file, which quantrim does not read yet; start from the checkpoint"),
        ("tf_model.h5", "'tf_model.h5' is an HDF5 file"),
    ],
)
def test_D25_a_folder_of_another_format(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(bytes(9))
    (tmp_path / "config.json").write_text("{}")
    assert said in refused(tmp_path)


def test_D25_a_folder_whose_weights_are_further_down(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "model.safetensors").write_bytes(READABLE)
    (tmp_path / "vae").mkdir()
    assert f"there is one in {str(tmp_path / 'transformer')!r}: name that folder" in refused(tmp_path)
