"""Files of byte planes from strangers: whatever they claim, a FormatError or the original, and nothing in between."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from files_helpers import nothing_written, raw_file
from model_helpers import save, save_folder, weights

from quantrim.files import FormatError, open_checkpoint
from quantrim.files.byteplanes.container import HEADER, KEY, TABLE
from quantrim.model import compress_lossless, restore
from quantrim.model.edit import lossless


def parts_of(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small original, and its planes, in three chunks and a tensor that does not shrink."""
    folder = tmp_path_factory.mktemp("hostile")
    noise = np.random.default_rng(0).integers(0, 256, 64, np.uint8)
    w = np.repeat(weights(6, 5), 5, axis=0)
    arrays = {"w": w, "noise": noise, "e": np.zeros((0, 2), np.float32)}
    source = save(folder / "source.safetensors", arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lossless, "CHUNK_BYTES", 256)
        compress_lossless(source, folder / "planes.safetensors")
    assert "w.byte_planes" in parts_of(folder / "planes.safetensors")[0]
    assert "noise" in parts_of(folder / "planes.safetensors")[0]
    return source, folder / "planes.safetensors"


def refused(path: Path, *words: str) -> str:
    """restore is a FormatError that names the path and all words; nothing is written."""
    with nothing_written(path.with_name("out.safetensors")), pytest.raises(FormatError) as caught:
        restore(path, path.with_name("out.safetensors"))
    message = str(caught.value)
    assert message.isprintable() and path.name in message
    for word in words:
        assert word in message, message
    return message


@pytest.mark.promise("C92")
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """Every byte of the file, one bit of it at a time: refused, or, where it means nothing, the original as it was."""
    original, whole = pair[0].read_bytes(), pair[1].read_bytes()
    path, out = tmp_path / "flipped.safetensors", tmp_path / "out.safetensors"
    harmless = []
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 1 << at % 8
        path.write_bytes(broken)
        try:
            restore(path, out, overwrite=True)
        except FormatError as error:
            assert error.path == str(path)
            assert not out.exists()
            continue
        harmless.append(at)
        assert out.read_bytes() == original
        out.unlink()
    assert len(harmless) < 8  # such as the reserved bit of a frame


@pytest.mark.promise("C92")
def test_flips_in_data_name_tensor_and_offset(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    whole = pair[1].read_bytes()
    header, data = parts_of(pair[1])
    path, harmless, count = tmp_path / "flipped.safetensors", 0, 0
    with open_checkpoint(pair[0]) as model:
        original = {name: model.raw(name) for name in model}
    for stored, name in (("w.byte_planes", "w"), ("noise", "noise")):
        begin, end = header[stored]["data_offsets"]
        base = len(whole) - len(data)
        for at in range(base + begin, base + end):
            broken = bytearray(whole)
            broken[at] ^= 0x10
            count += 1
            path.write_bytes(broken)
            with open_checkpoint(path) as model:
                try:
                    assert model.raw(name) == original[name]  # a bit that means nothing to zstandard
                    harmless += 1
                except FormatError as error:
                    assert error.tensor == name
                    assert error.offset is not None and base + begin <= error.offset <= at
    assert harmless < count / 20


@pytest.mark.promise("C51")
def test_truncated_at_every_byte(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    whole = pair[1].read_bytes()
    path = tmp_path / "short.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)


Edit = Callable[[dict[str, Any], dict[str, bytes], dict[str, Any]], None]


def rewritten(pair: tuple[Path, Path], path: Path, edit: Edit) -> Path:
    """The planes with what `edit` does to (header entries, data by name, what KEY says); offsets follow."""
    header, data = parts_of(pair[1])
    metadata = header.pop("__metadata__")
    said = json.loads(metadata[KEY])
    blobs = {name: data[slice(*entry["data_offsets"])] for name, entry in header.items()}
    edit(header, blobs, said)
    cursor = 0
    for name, blob in blobs.items():
        header[name]["data_offsets"] = [cursor, cursor + len(blob)]
        if name not in ("w", "noise", "e"):
            header[name]["shape"] = [len(blob) // (4 if name == TABLE else 1)]
        cursor += len(blob)
    metadata[KEY] = json.dumps(said) if isinstance(said, dict) and said.get("raw") is None else said["raw"]
    path.write_bytes(raw_file({"__metadata__": metadata, **header}, b"".join(blobs.values())))
    return path


def test_the_editor_changes_nothing_by_itself(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    path = rewritten(pair, tmp_path / "same.safetensors", lambda *_: None)
    restore(path, tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == pair[0].read_bytes()


@pytest.mark.promise("C61", "C64", "C93")
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("version", 2, "bad version"),
        ("version", True, "bad version"),
        ("version", "1", "bad version"),
        ("size", -1, "bad size"),
        ("size", 2**64, "bad size"),
        ("size", 10**6, "the header of the original is wrong"),
        ("header_bytes", 9, "bad header_bytes"),
        ("header_bytes", 2**40, "bad header_bytes"),
        ("header_bytes", 99_000_000, "a frame says that it holds"),
        ("chunk_bytes", 0, "bad chunk_bytes"),
        ("chunk_bytes", 12, "a multiple of 8"),
        ("chunk_bytes", 2**31, "bad chunk_bytes"),
        ("chunk_bytes", 8, "numbers for the tensors of the original"),
        ("chunk_bytes", 256.0, "bad chunk_bytes"),
        ("sha256", "0" * 64, "SHA-256 mismatch: expected"),
        ("sha256", "A" * 64, "bad sha256"),
        ("sha256", 5, "bad sha256"),
        ("raw", "[]", "must be an object"),
        ("raw", "{", "is not JSON"),
        ("raw", '{"size":1,"size":2}', "twice"),
        ("raw", "[" * 100_000, "nested too deeply"),
    ],
)
def test_what_the_metadata_says(
    tmp_path: Path, pair: tuple[Path, Path], field: str, value: Any, said: str
) -> None:
    def edit(header: Any, blobs: Any, key: dict[str, Any]) -> None:
        key[field] = value

    refused(rewritten(pair, tmp_path / "x.safetensors", edit), said)


def table(*changes: tuple[int, int]) -> Edit:
    """Numbers of the table replaced. Chunks of w come after those of e (none): 0 is the checksum of its first."""

    def edit(header: Any, blobs: dict[str, bytes], key: Any) -> None:
        numbers = np.frombuffer(blobs[TABLE], "<u4").copy()
        for at, value in changes:
            numbers[at] = value
        blobs[TABLE] = numbers.tobytes()

    return edit


def header_blob(change: Callable[[bytes], bytes]) -> Edit:
    def edit(header: Any, blobs: dict[str, bytes], key: dict[str, Any]) -> None:
        text = change(zstandard.ZstdDecompressor().decompress(blobs[HEADER]))
        key["header_bytes"] = len(text)
        blobs[HEADER] = zstandard.ZstdCompressor().compress(text)

    return edit


def resized(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def without(name: str) -> Edit:
    def edit(header: Any, blobs: Any, key: Any) -> None:
        del header[name], blobs[name]

    return edit


def more(name: str) -> Edit:
    def edit(header: Any, blobs: Any, key: Any) -> None:
        header[name], blobs[name] = {"dtype": "U8", "shape": [3]}, b"abc"

    return edit


def grown(name: str, blob: bytes) -> Edit:
    def edit(header: Any, blobs: Any, key: Any) -> None:
        blobs[name] += blob

    return edit


def other_dtype(name: str, dtype: str) -> Edit:
    def edit(header: Any, blobs: Any, key: Any) -> None:
        header[name]["dtype"] = dtype

    return edit


def bomb(header: Any, blobs: dict[str, bytes], key: Any) -> None:
    """A frame for a plane of 64 bytes that unfolds to 64 MiB."""
    numbers = np.frombuffer(blobs[TABLE], "<u4").copy()
    frame = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    begin = int(numbers[1:4].sum())
    size = int(numbers[4])
    blob = blobs["w.byte_planes"]
    small = frame[:60]
    blobs["w.byte_planes"] = blob[:begin] + small + blob[begin + size :]
    numbers[4] = len(small)
    blobs[TABLE] = numbers.tobytes()


@pytest.mark.promise("C64", "C65", "C66", "C67", "C68", "C86")
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (table((1, 0)), ("tensor 'w'", "must be of 1 to 64 bytes")),
        (table((1, 2**32 - 1)), ("tensor 'w'", "must be of 1 to 64 bytes", "found 4294967295")),
        (table((1, 1)), ("'w.byte_planes'", "must be there for a tensor of the original")),
        (table((1, 64), (2, 64), (3, 64), (4, 64)), ("must be there for a tensor of the original",)),
        (table((0, 5)), ("tensor 'w'", "CRC-32 mismatch in chunk 0: expected 0x00000005")),
        (bomb, ("tensor 'w'", f"says that it holds {1 << 26} bytes, not 64")),
        (grown(TABLE, bytes(4)), (f"'{TABLE}'", "numbers for the tensors of the original")),
        (grown("w.byte_planes", b"x"), ("'w.byte_planes'", "must be there for a tensor of the original")),
        (grown(HEADER, b"x"), (f"'{HEADER}'", "unused data")),
        (without(TABLE), (f"'{TABLE}'", "must be there")),
        (without(HEADER), (f"'{HEADER}'", "must be there")),
        (without("w.byte_planes"), ("'w.byte_planes'", "must be there", "found None")),
        (more("extra"), ("'extra'", "is no tensor of the original")),
        (other_dtype("noise", "I8"), ("'noise'", "found 'I8 [64]'")),
        (other_dtype(HEADER, "I8"), (f"'{HEADER}'", "U8 of one dimension")),
        (header_blob(lambda t: t[:8] + b"[" + t[9:]), ("must begin with its length",)),
        (header_blob(lambda t: t + b" "), ("must begin with its length",)),
        (header_blob(lambda t: resized(t[8:].replace(b'"F32"', b'"X32"'))), ("the original is wrong", "X32")),
        (header_blob(lambda t: resized(re.sub(rb"\[30,5\]", b"[4294967296,4294967296]", t[8:]))), ("2^63-1 bits",)),
        (header_blob(lambda t: resized(re.sub(rb'"pt"', b'"tp"', t[8:]))), ("must be that of the original",)),
    ],
    ids=range(20),
)  # fmt: skip
def test_tables_that_are_wrong(
    tmp_path: Path, pair: tuple[Path, Path], edit: Edit, words: tuple[str, ...]
) -> None:
    refused(rewritten(pair, tmp_path / "x.safetensors", edit), *words)


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_folder(tmp_path / "source", {"a.weight": weights(40, 40), "b.weight": weights(40, 8)})
    compress_lossless(tmp_path / "source", tmp_path / "planes")
    return tmp_path / "planes"


def refused_folder(folder: Path, *words: str) -> None:
    with nothing_written(folder.with_name("out")), pytest.raises(FormatError) as caught:
        restore(folder, folder.with_name("out"))
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.promise("C92")
def test_other_files_of_a_folder_are_checked(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(b"{}")
    refused_folder(folder, "tokenizer.json", "SHA-256 mismatch: expected")
    (folder / "tokenizer.json").unlink()
    refused_folder(folder, "'tokenizer.json' of the list is missing")


@pytest.mark.promise("C90")
@pytest.mark.parametrize(
    ("listing", "said"),
    [
        ("[]", "must be an object with version 1 and files"),
        ('{"version": 2, "files": {}}', "must be an object with version 1 and files"),
        ('{"version": 1, "files": []}', "must be an object with version 1 and files"),
        ('{"version": 1, "files": {"../source/config.json": "00"}}', "is missing from the folder"),
        ('{"version": 1, "files": {"config.json": 7}}', "config.json"),
        ("{", "is not JSON"),
    ],
)
def test_lists_that_are_wrong(folder: Path, listing: str, said: str) -> None:
    (folder / lossless.LISTING).write_text(listing)
    refused_folder(folder, said)


@pytest.mark.promise("C90")
def test_a_shard_that_is_no_planes(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes((folder.with_name("source") / shard.name).read_bytes())
    refused_folder(folder, shard.name, "must be a file that compress_lossless wrote")
