"""Files and folders that hold weights in another format, or none: what they are, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from files_helpers import SMALL, entry, floats, raw_file, write_tensors

from quantrim.files import FORMATS, Format, FormatError, open_checkpoint, read_header
from quantrim.files.safetensors.reader import SafetensorsReader

READABLE = raw_file({"a": entry("F32", [2], 0, 8)}, bytes(8))
SUFFIXES = {
    ".onnx": "ONNX",
    ".msgpack": "Flax",
    ".gguf": "GGUF",
    ".tflite": "TFLite",
}


def refused(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.promise("fault-D9")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_formats_by_suffix(tmp_path: Path, suffix: str) -> None:
    """Where the bytes say nothing. What is safetensors after all is read."""
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\xde" * 99)
    message = refused(path)
    assert SUFFIXES[suffix] in message and "does not read yet" in message and "pickle" not in message
    path.write_bytes(READABLE)
    assert list(read_header(path)[0]) == ["a"]


@pytest.mark.promise("fault-D25")
def test_a_config_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "bert"}')
    message = refused(path)
    assert f"a JSON file; give the model's folder, {str(tmp_path)!r}" in message and "found" not in message


@pytest.mark.promise("fault-D25")
def test_a_missing_pickle_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "pytorch_model.bin")


@pytest.mark.promise("fault-D25")
def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    assert refused(path).endswith("an empty file: file ends at byte 0")


@pytest.mark.promise("fault-D25")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.pkl", "'model.pkl' is a pickle; loading one can run any program"),
        ("training_args.bin", "'training_args.bin' is a PyTorch file: name that file"),
        ("model.gguf", "'model.gguf' is a GGUF file, which quantrim does not read yet; start from the checkpoint"),
        ("tf_model.h5", "'tf_model.h5' is an HDF5 file"),
    ],
)
def test_a_folder_of_another_format(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(bytes(9))
    (tmp_path / "config.json").write_text("{}")
    assert said in refused(tmp_path)


@pytest.mark.promise("fault-D25")
def test_a_folder_whose_weights_are_further_down(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "model.safetensors").write_bytes(READABLE)
    (tmp_path / "vae").mkdir()
    assert f"there is one in {str(tmp_path / 'transformer')!r}: name that folder" in refused(tmp_path)


# A format of folders that is added: here, safetensors under another name


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "made up", Format("made up", (".made",), SafetensorsReader, weights="weights.made"))


@pytest.mark.usefixtures("made_up")
def test_a_row_is_all_that_a_format_needs(tmp_path: Path) -> None:
    """By its suffix; in a folder by its name, with shards or without."""
    (tmp_path / "weights.made").write_bytes(SMALL)
    (tmp_path / "training_args.bin").write_bytes(b"\x80\x04.")
    for path in (tmp_path, tmp_path / "weights.made"):
        with open_checkpoint(path) as checkpoint:
            assert list(checkpoint) == ["a", "b\u00e9"] and checkpoint.shards == ["weights.made"]
    for k in range(2):
        write_tensors(tmp_path / f"w-{k}.made", {f"t{k}": floats(3 + k)})
    index = tmp_path / "weights.made.index.json"
    index.write_text('{"weight_map": {"t0": "w-0.made", "t1": "w-1.made"}}')
    for path in (tmp_path, index):
        with open_checkpoint(path) as checkpoint:
            assert list(checkpoint) == ["t0", "t1"] and checkpoint.index == index and checkpoint.is_folder
            assert checkpoint["t1"].tobytes() == floats(4).tobytes()
            assert {"weights.made", "training_args.bin"} == set(checkpoint.beside.others)
    write_tensors(tmp_path / "model.safetensors", {"a": floats(2)})
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint) == ["a"]  # safetensors first


@pytest.mark.usefixtures("made_up")
def test_a_folder_without_the_file_of_the_format(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").write_bytes(b"\x80\x04.")
    assert "must hold a .safetensors file" in refused(tmp_path)


def test_an_npz_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.npz").write_bytes(b"PK")
    assert f"'model.npz' is an .npz file (a zip of .npy): name that file, {str(tmp_path / 'model.npz')!r}" in refused(
        tmp_path
    )
