"""What quantrim writes is, byte for byte, what it wrote before: `golden/` has the cases, their digests and some files.

Bytes that change on purpose: `python tests/golden/make.py --write --because "why"`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from golden import make, outputs, sources
from golden.table import CASES, Case

KEPT = [case for case in CASES.values() if case.kept]
TABLE = make.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sources."""
    found = tmp_path_factory.mktemp("golden")
    sources.make_sources(found)
    return found


@pytest.fixture(autouse=True)
def within(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of data are relative, since files name them."""
    monkeypatch.chdir(folder)


def wanted(case: Case) -> outputs.Digests:
    found: outputs.Digests = TABLE["cases"][case.name]["outputs"]
    return found


def compared(found: outputs.Digests, golden: outputs.Digests, results: Path | None = None) -> list[str]:
    """The differences; but planes that another zstandard packed need only come back as what they were."""
    if make.zstandard_version() != TABLE["zstandard"]:
        found, golden = ({n: d for n, d in each.items() if not n.startswith("lossless")} for each in (found, golden))
    return outputs.differences(found, golden, results)


def test_the_sources_are_the_same(folder: Path) -> None:
    found: outputs.Digests = {}
    for path in sorted(folder.iterdir()):
        found |= outputs.digests_of_files(path)
    assert outputs.differences(found, TABLE["sources"], folder) == []


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_every_byte_is_as_it_was(case: Case, folder: Path, tmp_path: Path) -> None:
    assert compared(outputs.digests_of(case, folder, tmp_path), wanted(case), tmp_path) == []


def test_every_row_has_a_case_and_a_reason() -> None:
    assert list(TABLE["cases"]) == list(CASES)
    assert [name for name, row in TABLE["cases"].items() if not row["because"].strip()] == []


# Files that were written once must be read for ever


@pytest.mark.parametrize("case", KEPT, ids=[case.name for case in KEPT])
def test_kept_files_decompress_to_the_same_weights(case: Case, tmp_path: Path) -> None:
    kept = make.kept_file(case.name)
    assert compared({"compress.safetensors": outputs.digest_of_file(kept)}, only(case, "compress")) == []
    outputs.run("decompress", kept, tmp_path / "decompress.safetensors", {})
    assert compared(outputs.digests_of_files(tmp_path / "decompress.safetensors"), only(case, "decompress")) == []


def only(case: Case, verb: str) -> outputs.Digests:
    return {name: digest for name, digest in wanted(case).items() if name.startswith(verb)}


def test_kept_files_are_small() -> None:
    files = sorted(make.FILES.iterdir())
    assert files == sorted(make.kept_file(case.name) for case in KEPT)
    assert sum(path.stat().st_size for path in make.HERE.rglob("*.safetensors")) < 400_000


# What would be found


def said_of(path: Path, data: bytes, golden: outputs.Digests) -> list[str]:
    """What is said where a result holds these bytes instead; it is as before afterwards."""
    before = path.read_bytes()
    assert data != before
    path.write_bytes(data)
    try:
        return outputs.differences({path.name: outputs.digest_of_file(path)}, golden, path.parent)
    finally:
        path.write_bytes(before)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("name", ["int4", "sparse int4 0.5", "5 clusters 32", "bitsandbytes nf4", "prune half"])
def test_one_flipped_bit_of_any_tensor_is_found_and_named(name: str, folder: Path, tmp_path: Path) -> None:
    outputs.digests_of(CASES[name], folder, tmp_path)
    path = tmp_path / "compress.safetensors"
    golden = {path.name: wanted(CASES[name])[path.name]}
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    tensors = [(n, entry["data_offsets"]) for n, entry in json.loads(raw[8:begin]).items() if n != "__metadata__"]
    assert len(tensors) > 3
    for tensor, (first, end) in tensors:
        for at in {first, (first + end) // 2, end - 1}:
            line = f"{path.name} differs from tensor {tensor!r} on"
            assert said_of(path, flipped(raw, begin + at), golden) == [line]


def test_other_headers_are_found_but_for_a_release(folder: Path, tmp_path: Path) -> None:
    outputs.digests_of(CASES["int4"], folder, tmp_path)
    path = tmp_path / "compress.safetensors"
    golden = {path.name: wanted(CASES["int4"])[path.name]}
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    text, data = raw[8:begin].rstrip(), raw[begin:]

    def said(text: bytes, blanks: int = 0) -> list[str]:
        text += b" " * (-len(text) % 8 + blanks)
        return said_of(path, len(text).to_bytes(8, "little") + text + data, golden)

    start = f"{path.name} differs"
    assert said(text.replace(b"min_elements = 0", b"min_elements = 1")) == [f"{start} from the metadata on"]
    assert said(text.replace(b'"a.weight_scale"', b'"a.weight_other"')) == [f"{start} from tensor 'a.weight_other' on"]
    for changed, blanks in ((text.replace(b":{", b": {"), 0), (text, 8)):
        assert said(changed, blanks) == [f"{start} in its header or between its tensors"]
    for version in (b"0.2.0", b"12.34.56.dev789"):
        release = re.sub(b'(quantrim_version":")[^"]+', rb"\g<1>" + version, text)
        assert version in release and said(release) == []


def test_one_flipped_bit_of_any_other_file_is_found(folder: Path, tmp_path: Path) -> None:
    case = CASES["llama int4"]
    outputs.digests_of(case, folder, tmp_path)
    files = [path for path in (tmp_path / "compress").rglob("*") if path.suffix == ".json"]
    assert {path.name for path in files} == {"config.json", "tokenizer.json", "model.safetensors.index.json"}
    for path in files:
        golden = {path.name: wanted(case)[path.relative_to(tmp_path).as_posix()]}
        assert said_of(path, flipped(path.read_bytes(), 1), golden) == [f"{path.name} differs"]


def test_missing_and_new_files_are_found(folder: Path, tmp_path: Path) -> None:
    case = CASES["llama int4"]
    found = outputs.digests_of(case, folder, tmp_path)
    index = "compress/model.safetensors.index.json"
    without = {name: digest for name, digest in found.items() if name != index}
    assert compared(without, wanted(case)) == [f"{index} is missing"]
    assert compared(found | {"compress/more.json": ""}, wanted(case)) == ["compress/more.json is new"]


FLIPPED: list[tuple[str, dict[str, Any]]] = [
    ("int4", {"symmetric": False}),
    ("int4", {"bits": 5}),
    ("int4", {"rounding": "away"}),
    ("int4", {"scale": "absmax"}),
    ("scales float16", {"scale_dtype": "float32"}),
    ("rounding by seed 1", {"seed": 2}),
    ("16 clusters tensor", {"clusters": 15}),
    ("prune half at random", {"seed": 6}),
    ("prune half by wanda", {"prune_score": "magnitude", "prune_data": None}),
    ("prune global", {"prune_scope": "tensor"}),
    ("sparse 0.5", {"storage": "dense"}),
    ("threshold soft", {"threshold_mode": "magnitude"}),
    ("llama int4 for vllm", {"reader": "any"}),
]


@pytest.mark.parametrize(("name", "options"), FLIPPED, ids=str)
def test_one_other_setting_is_found(name: str, options: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    case = CASES[name]
    first = Case(case.name, case.source, case.steps[:1]).changed(**options)
    lines = compared(outputs.digests_of(first, folder, tmp_path), only(case, "compress"), tmp_path)
    assert any("differs" in line or "is new" in line for line in lines)


def make_main(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, make.__file__, *words], capture_output=True, text=True)


def test_nothing_is_kept_without_a_reason() -> None:
    for words in (("--write",), ("--write", "--because", " ")):
        done = make_main(*words)
        assert done.returncode == 2 and "--because" in done.stderr
