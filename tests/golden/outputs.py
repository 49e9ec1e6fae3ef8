"""What a case writes, as digests, and how two such tables of digests differ."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from golden.table import Case

# name of an output -> SHA-256 of it, then four hex digits of each of its pieces in order (the metadata and tensors of
# a safetensors file, the members of an .npz), which find the place of a difference
Digests = dict[str, str]

_VERSION = re.compile(rb'(?<="quantrim_version":")[^"]*')
_OF_A_RUN = ("destination", "gb_per_s", "peak_memory", "quantrim", "seconds", "threads", "versions")


def run(verb: str, source: Path, target: Path, options: Mapping[str, Any]) -> Any:
    """The only call of quantrim in these tests: a step of a case, its result on the disk."""
    from quantrim import model

    functions: dict[str, Any] = {
        "compress": model.compress,
        "decompress": model.decompress,
        "split": model.split_checkpoint,
        "merge": model.merge_checkpoint,
        "lossless": model.compress_lossless,
        "restore": model.restore,
    }
    return functions[verb](source, target, **options)


def digests_of(case: Case, sources: Path, folder: Path) -> Digests:
    """Take the steps of a case in an empty folder; return the digests of all results.

    The process must work in `sources`, which relative paths of data are in.
    """
    source = sources / case.source
    if not source.exists():
        source = sources / f"{case.source}.safetensors"
    suffix = case.suffix or source.suffix
    found: Digests = {}
    for number, (verb, options) in enumerate(case.steps):
        target = folder / (verb if verb == "split" else f"{verb}{suffix}")
        result = run(verb, source.relative_to(sources) if number == 0 else source, target, options)
        found |= digests_of_files(target)
        if case.report and number == 0:
            found["report"] = digest_of_report(result.to_json())
        source = target
    return found


def digests_of_files(path: Path) -> Digests:
    """The digests of a file, or of all files of a folder, by their names from its parent on."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {file.relative_to(path.parent).as_posix(): digest_of_file(file) for file in files}


def digest_of_file(path: Path) -> str:
    """Nothing of a file is left out but the version of quantrim in a safetensors header's metadata, which would change
    with each release, and the blanks that fill the header up behind it; of an .npz, besides, what a zip says of places
    and checksums."""
    data = path.read_bytes()
    if path.suffix == ".npz":
        found = pieces(path)
        return " ".join([hashlib.sha256(b"".join(found.values())).hexdigest(), *map(_mark, found.values())])
    if path.suffix != ".safetensors":
        return hashlib.sha256(data).hexdigest()
    length = 8 + int.from_bytes(data[:8], "little")
    text = data[8:length].rstrip(b" ")
    rest = length - 8 - len(text)
    header = b"%s %d %d" % (_VERSION.sub(b"*", text), length % 8, rest // 8)
    sha = hashlib.sha256(header + data[length:]).hexdigest()
    return " ".join([sha, *(_mark(piece) for piece in pieces(path).values())])


def pieces(path: Path) -> dict[str, bytes]:
    """What a safetensors file consists of, by name: the metadata, and each tensor in the order of the header; or the
    members of an .npz."""
    if path.suffix == ".npz":
        return _members(path)
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:length])
    metadata = json.dumps(header.pop("__metadata__", None), sort_keys=True).encode()
    found = {"the metadata": re.sub(rb'("quantrim_version": ")[^"]*', rb"\1*", metadata)}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        found[f"tensor {name!r}"] = f"{name} {json.dumps(entry)}".encode() + data[length + begin : length + end]
    return found


def _members(path: Path) -> dict[str, bytes]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            said = f"{info.filename} {info.compress_type} {info.flag_bits} {info.date_time}".encode()
            data = archive.read(info)
            if info.filename == "__metadata__.npy":  # without its header, which has its length
                data = re.sub(rb'("quantrim_version": ")[^"]*', rb"\1*", data.partition(b"\n")[2])
            found[f"member {info.filename!r}"] = said + data
    return found


def _mark(piece: bytes) -> str:
    return hashlib.sha256(piece).hexdigest()[:4]


def digest_of_report(text: str) -> str:
    """Without what is of this run alone; of figures nine digits, as logarithms and roots are not exact everywhere."""
    table = json.loads(text, parse_float=lambda digits: float(f"{float(digits):.9g}"))
    for key in _OF_A_RUN:
        del table[key]
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def differences(found: Digests, wanted: Digests, folder: Path | None = None) -> list[str]:
    """One line for each output that is not as it was. folder: where the outputs are, to name the first tensor."""
    lines = []
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            lines.append(f"{name} is missing")
        elif name not in wanted:
            lines.append(f"{name} is new")
        elif found[name] != wanted[name]:
            lines.append(f"{name} differs{_place(found[name], wanted[name], folder and folder / name)}")
    return lines


def _place(found: str, wanted: str, path: Path | None) -> str:
    marks, old = found.split()[1:], wanted.split()[1:]
    if path is None or path.suffix not in (".safetensors", ".npz"):
        return ""
    names = list(pieces(path))
    for name, mark, before in zip(names, marks, old, strict=False):
        if mark != before:
            return f" from {name} on"
    if len(marks) != len(old):
        return f": it has {len(marks) - 1} tensors, not {len(old) - 1}"
    return " in its header or between its tensors"
