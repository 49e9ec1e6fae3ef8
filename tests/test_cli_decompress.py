"""quantrim decompress: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from model_helpers import save, save_folder, small_model, stored_tensors
from test_cli import refused, run

from quantrim.model import compress, decompress


@pytest.fixture
def small(tmp_path: Path) -> Path:
    save(tmp_path / "m.safetensors", small_model())
    compress(tmp_path / "m.safetensors", tmp_path / "small.safetensors", bits=4)
    return tmp_path / "small.safetensors"


def test_it_does_what_the_function_does(small: Path) -> None:
    for words, options in (((), {}), (("--dtype", "bfloat16", "--threads", "1"), {"dtype": "bfloat16"})):
        theirs, ours = small.with_name("theirs.safetensors"), small.with_name("ours.safetensors")
        decompress(small, theirs, overwrite=True, **options)  # type: ignore[arg-type]
        result = run("decompress", small, ours, "--overwrite", *words)
        assert result.exit_code == 0 and result.stderr == ""
        assert ours.read_bytes() == theirs.read_bytes()


def test_it_closes_with_what_it_did(small: Path) -> None:
    target = small.with_name("floats.safetensors")
    text = run("decompress", small, target).stdout
    assert "4 decoded, 6 copied" in text and "narrowed" not in text
    assert f"written  {target}" in text and "int4 group 32 symmetric" in text
    text = run("decompress", small, target, "--dtype", "bfloat16", "--overwrite").stdout
    assert "4 decoded, 5 in another dtype, 1 copied" in text
    assert "dB over 8 tensors; " in text


def test_it_prints_json(small: Path) -> None:
    target = small.with_name("floats.safetensors")
    found = json.loads(run("decompress", small, target, "--json", "--dtype", "float16").stdout)
    assert found["decoded"] == 4 and found["nbytes"] == target.stat().st_size
    assert found["source_bytes"] == small.stat().st_size and found["left_out"] == []
    rows = {row["name"]: row for row in found["tensors"]}
    assert rows.keys() == stored_tensors(target).keys()
    row = rows["model.layers.0.up.weight"]
    assert (row["decoded"], row["copied"], row["dtype"], row["nbytes"]) == (True, False, "F16", 96 * 64 * 2)
    assert rows["model.positions"]["copied"] and rows["scalar"]["snr_db"] is None  # infinite: 3.5 is exact


@pytest.mark.parametrize("as_json", [False, True])
def test_a_dry_run_writes_nothing_and_says_the_exact_size(small: Path, as_json: bool) -> None:
    target = small.with_name("floats.safetensors")
    words = ["--json"] if as_json else []
    said = run("decompress", small, target, "--dry-run", *words).stdout
    assert not target.exists()
    decompress(small, target)
    nbytes = target.stat().st_size
    assert json.loads(said)["nbytes"] == nbytes if as_json else f"({nbytes:,} bytes): 4 decoded, 6 copied." in said
    again = run("decompress", small, target, "--dry-run", *words)
    assert "to replace it will take --overwrite" in again.stderr


def test_notes_are_said(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "source", small_model(), 1, {"dtype": "bfloat16"})
    compress(source, tmp_path / "small", bits=4, scale_dtype="float32")
    said = run("decompress", tmp_path / "small", tmp_path / "floats").stdout
    assert "note: weights decode to float32, where config.json said bfloat16; dtype='bfloat16' (--dtype" in said
    assert {a.dtype.name for a in stored_tensors(tmp_path / "floats").values()} == {"float32", "int64"}


def test_bad_input_is_exit_code_2(small: Path) -> None:
    target = small.with_name("floats.safetensors")
    assert "--dtype must be one of 'float32'" in refused(run("decompress", small, target, "--dtype", "int8"))
    assert "nothing to decompress" in refused(run("decompress", small.with_name("m.safetensors"), target))
    assert "must not be the source" in refused(run("decompress", small, small, "--overwrite"))
    save(target, {"a": np.zeros(3)})
    assert "exists; add --overwrite to replace it" in refused(run("decompress", small, target))
    assert "--threads must be an integer" in refused(run("decompress", small, target, "--threads", 0))
