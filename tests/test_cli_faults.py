"""What people meet on the command line: wrong words and what is answered, files that must not be replaced, figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cli_helpers import five_layers, refused, run
from held_tensors import normal
from model_helpers import save_folder, small_model
from safetensors.numpy import save_file

import quantrim as qt
from quantrim.commands import wording
from quantrim.files import DTYPES, encode_header
from quantrim.model.report.compare import compare
from quantrim.model.report.provenance import SCHEMA


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return five_layers(tmp_path)


@pytest.fixture
def small(model: Path) -> Path:
    path = model.with_name("small.safetensors")
    qt.compress(model, path)
    return path


# Options by their own names

MESSAGES = {
    "compress M O --bits 9": "--bits must be an integer of 2..8, not 9",
    "compress M O --group-size chanel": "not 'chanel'; did you mean 'channel'?",
    "compress M O --storage sparce": "not 'sparce'; did you mean 'sparse'?",
    "compress M O --bits 4 --codebook nf4": "--codebook nf4 must not be given with --bits 4: each chooses",
    "compress M O --bits none --prune 0.5 --scale mse": "--scale mse must not be given with --bits none, which writes",
    "compress M O --prune 2:4 --prune-pattern 4x1": "--prune-pattern 4x1 must not be given with --prune 2:4, but with",
    "compress M O --prune .5 --prune-score wanda": "--prune-score wanda must not be given without --prune-data, a",
    "compress M O --prune .5 --prune-pattern rows": "\"row\", \"column\" or ROWSxCOLS, not 'rows'; did you mean 'row'?",
    "compress M O --max-shard-size 1GB": "--max-shard-size must not be given for one file",
    "compress M O --bits 4 --recipe M": "give either a recipe or options, not --recipe and --bits",
    "compress M O --lossless --bits 4": "--lossless must be given without --bits: it changes no weight",
    "split M P": "give either --max-size or --layers, to say how large the files become",
    "split M P --layers 1 --max-size 1GB": "give either --max-size or --layers, not both",
    "split M P --max-size 1x": "--max-size must be a number of bytes, such as 5GB, 500MiB or 4096, not '1x'",
    "merge M O --drop x*": "--drop 'x*' matched 0 tensors",
    "merge M O --drop-lowest 9": "--drop-lowest must be an integer of 0..4, not 9",
}
MEANT = {
    "compress M O --force": "no such option: --force; did you mean --overwrite?",
    "compress M O -f": "no such option: -f; did you mean --overwrite?",
    "restore M O --yes": "did you mean --overwrite?",
    "compress M --output O": "no such option: --output; DST is the second argument, without an option",
    "compress --model M O": "SRC is the first argument, without an option",
    "compress M O --bit 4": "did you mean --bits?",
    "compress M O --nbits 4": "did you mean --bits?",
    "compress M O --group 32": "did you mean --group-size?",
    "compress M O --nf4": "did you mean --codebook nf4?",
    "compress M O --max-size 2GB": "did you mean --max-shard-size?",
    "split M P --max-shard-size 2GB": "did you mean --max-size?",
    "inspect M --no-stat": "did you mean --no-stats?",
    "inspect M --force": "no such option: --force (see quantrim inspect --help)",
    "compress M O --zzz": "no such option: --zzz (see quantrim compress --help)",
    "quantize M O": "no such command: quantize; did you mean compress? (see quantrim --help)",
    "compar M M": "no such command: compar; did you mean compare? (see quantrim --help)",
}


def answer(line: str, model: Path) -> str:
    paths = {"M": model, "O": model.with_name("out.safetensors"), "P": model.with_name("parts")}
    before = sorted(model.parent.iterdir())
    said = refused(run(*(paths.get(word, word) for word in line.split())))
    assert sorted(model.parent.iterdir()) == before
    return said


@pytest.mark.promise("fault-D8", "fault-D25")
@pytest.mark.parametrize("line", MESSAGES)
def test_messages_speak_of_options(line: str, model: Path) -> None:
    assert MESSAGES[line] in answer(line, model)


@pytest.mark.promise("fault-D8")
@pytest.mark.parametrize("line", MEANT)
def test_what_is_meant_is_suggested(line: str, model: Path) -> None:
    assert MEANT[line] in answer(line, model)


@pytest.mark.promise("fault-D8")
def test_notes_speak_of_options(tmp_path: Path) -> None:
    source, out, report = save_folder(tmp_path / "m", small_model()), tmp_path / "out", tmp_path / "r.md"
    words = ["compress", source, out, "--bits", "4", "--prune", "0.9"]
    said = "--storage dense keeps them for others"
    assert said in run(*words, "--dry-run").stdout
    assert said in json.loads(run(*words, "--dry-run", "--json").stdout)["notes"][-1]
    assert said in run(*words, "--report", report).stdout
    assert said in report.read_text() and "storage=" not in report.read_text()


@pytest.mark.promise("fault-D7", "fault-D8")
def test_notes_on_files_speak_of_options(model: Path, tmp_path: Path) -> None:
    for words in ((), ("--dry-run",), ("--json",)):
        said = run("split", model, tmp_path / "parts", "--max-size", "1kB", "--overwrite", *words).stdout
        assert "5 files of one tensor each are larger than --max-size 1,000" in " ".join(said.split())


@pytest.mark.promise("fault-D8")
def test_reasons_speak_of_options(model: Path) -> None:
    words = ["compress", model, model.with_name("out.safetensors"), "--min-elements", 20_000, "--clusters", 16]
    assert "fewer than --min-elements 20000 weights" in refused(run(*words))


@pytest.mark.promise("fault-D8")
def test_a_recipe_is_told_its_own_words(model: Path) -> None:
    recipe = model.with_name("recipe.toml")
    recipe.write_text("group_size = 0")
    line = refused(run("compress", model, model.with_name("out.safetensors"), "--recipe", recipe))
    assert ": group_size must be an integer of 1.." in line


@pytest.mark.promise("fault-D8")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exclude='*embed*' copies them", "--exclude '*embed*' copies them"),
        ("storage='dense' keeps them", "--storage dense keeps them"),
        ("symmetric=False, bits=None", "--asymmetric, --bits none"),
        ("unless overwrite=True; it exists", "unless --overwrite; it exists"),
        ("tensor 'bits=4.scale_dtype': bits must be 4", "tensor 'bits=4.scale_dtype': --bits must be 4"),
        ("prune_pattern=(4, 1) and codebook=[-1.0, 0.5]", "--prune-pattern 4x1 and --codebook -1.0,0.5"),
        ("drop the scale of a bits.weight_scale", "drop the scale of a bits.weight_scale"),
        ("/x/scale_dtype=4/scale_dtype-2 dequantize=True", "/x/scale_dtype=4/scale_dtype-2 dequantize=True"),
    ],
)
def test_words_of_python_in_those_of_the_command_line(text: str, said: str) -> None:
    names = ("bits", "codebook", "drop", "exclude", "overwrite", "prune_pattern", "scale", "scale_dtype", "storage")
    options = {name: wording.Option(f"--{name.replace('_', '-')}") for name in names}
    wording.use({**options, "symmetric": wording.Option("--symmetric", "--asymmetric")})
    try:
        assert wording.worded(text) == said
    finally:
        wording.use({})
    assert wording.worded(text) == text


# Files that are not to be replaced


@pytest.mark.promise("fault-D13")
@pytest.mark.parametrize("words", [[], ["--overwrite"]], ids=["plain", "overwrite"])
def test_a_report_replaces_nothing_of_the_model(model: Path, words: list[str], tmp_path: Path) -> None:
    """Not a file of the target, the target itself, the source, or the recipe; with --overwrite as without."""
    source, out, recipe = save_folder(tmp_path / "model", small_model()), tmp_path / "out", tmp_path / "recipe.json"
    recipe.write_text("bits = 4")
    before = sorted(tmp_path.rglob("*"))
    for report, said in (
        (out / "config.json", "must be beside"),
        (out / "sub" / ".." / "report.html", "must be beside"),
        (source / "config.json", "must not be inside the source folder"),
        (recipe, "must not be the source"),
    ):
        line = refused(run("compress", source, out, "--report", report, "--recipe", recipe, *words))
        assert line.startswith("--report ") and said in line
    assert sorted(tmp_path.rglob("*")) == before
    lossless = run("compress", source, out, "--lossless", "--report", out / "report.html", *words)
    assert "must be beside" in refused(lossless)


@pytest.mark.promise("fault-D13")
def test_a_report_that_exists_is_replaced_on_request(model: Path) -> None:
    report, out = model.with_name("report.md"), model.with_name("out.safetensors")
    report.write_text("mine")
    assert "exists; add --overwrite to replace it" in refused(run("compress", model, out, "--report", report))
    assert report.read_text() == "mine" and not out.exists()
    assert run("compress", model, out, "--report", report, "--overwrite").exit_code == 0
    assert "layers.3.weight" in report.read_text()


# JSON


@pytest.mark.promise("fault-D20")
def test_json_says_its_version_and_ours(model: Path, small: Path) -> None:
    out, parts, planes = (model.with_name(name) for name in ("out.safetensors", "parts", "planes.safetensors"))
    for words in (
        ["compress", model, out],
        ["compress", model, out, "--dry-run"],
        ["compress", model, planes, "--lossless"],
        ["restore", planes, model.with_name("again.safetensors")],
        ["compare", model, small],
        ["inspect", small],
        ["split", model, parts, "--layers", 2],
        ["split", model, parts, "--layers", 2, "--dry-run"],
        ["merge", parts, model.with_name("whole.safetensors")],
        ["merge", parts, out, "--dry-run"],
        ["decompress", small, model.with_name("floats.safetensors"), "--dry-run"],
        ["decompress", small, model.with_name("floats.safetensors")],
        ["info"],
    ):
        result = run(*words, "--json")
        assert result.exit_code == 0, result.stderr
        assert list(json.loads(result.stdout).items())[:2] == [("schema", SCHEMA), ("quantrim", qt.__version__)]


@pytest.mark.promise("fault-D20")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bits": 8, "scale": "mse", "symmetric": False},
        {"bits": None, "prune": 0.5, "exclude": "*0*"},
        {"codebook": [-1.0, 0.0, 0.5], "include": "*1*"},
        {"clusters": 16, "drop": "norm*"},
        {"prune": "2:4", "group_size": 32, "min_elements": 0},
        {"recognize": True},
        {"simulate": True, "bits": 3},
        {"dtype": "float16"},
    ],
    ids=str,
)
def test_the_settings_of_a_report_make_it_again(model: Path, options: dict[str, Any]) -> None:
    """Through JSON, and with nothing left to the defaults of another version."""
    first, second = model.with_name("1.safetensors"), model.with_name("2.safetensors")
    report = json.loads(qt.compress(model, first, **options).to_json())
    settings = report["settings"]
    assert {**report["versions"]}.keys() == {"quantrim", "python", "numpy", "isa"} and report["peak_memory"] > 1 << 20
    again = json.loads(qt.compress(model, second, recipe=settings).to_json())
    assert again["settings"] == settings and again["tensors"] == report["tensors"]
    assert compare(first, second).equal


@pytest.mark.promise("fault-D20")
def test_a_dry_run_has_the_settings_too(model: Path) -> None:
    data = json.loads(run("compress", model, model.with_name("o.safetensors"), "--dry-run", "--json").stdout)
    assert data["recipe"] == {} and (data["settings"]["bits"], data["settings"]["group_size"]) == (4, 32)
    assert {"scale", "scale_dtype", "rounding", "min_elements", "rule"} <= set(data["settings"])


# Figures and tables


@pytest.mark.promise("fault-D10")
def test_compress_and_compare_say_one_ratio(model: Path, small: Path) -> None:
    sizes = (model.stat().st_size, small.stat().st_size)
    said = f"{sizes[0] / sizes[1]:.2f}x smaller"
    assert said in run("compress", model, small, "--overwrite").stdout
    assert f"({said})" in run("compare", model, small).stdout
    assert tuple(json.loads(run("compare", model, small, "--json").stdout)["nbytes"]) == sizes


FORMS = (
    "", "--bits 8", "--bits 8 --group-size 128", "--bits 3", "--asymmetric --bits 8", "--group-size 96", "--prune 0.7",
    "--prune 0.7 --bits 8", "--prune 0.7 --bits 4 --storage sparse", "--codebook nf4", "--codebook mxfp4",
    "--codebook ternary", "--clusters 16", "--scale 0.01", "--bits none --prune 0.5 --storage sparse", "--recognize",
)  # fmt: skip


@pytest.mark.promise("fault-D10", "fault-D21")
@pytest.mark.parametrize("words", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16], ids=["float32", "bfloat16", "float16"])
def test_commands_agree_on_a_file(dtype: Any, words: str, tmp_path: Path) -> None:
    """compress, inspect and compare give a tensor one name for its form, and one error: that of what readers get."""
    source, out = tmp_path / "m.safetensors", tmp_path / "o.safetensors"
    shapes = ((96, 64), (96, 96), (64, 128), (64, 160), (32, 16, 3, 3))  # a group, a row of one, and of what is left
    save_file({f"{k}.weight": normal(*s, seed=k).astype(dtype) for k, s in enumerate(shapes)}, source)
    commands = [["compress", source, out, *words.split()], ["inspect", out, "--no-stats"], ["compare", source, out]]
    report, inside, apart = (json.loads(run(*command, "--json").stdout) for command in commands)
    stored = {t["name"]: t["label"] for t in report["tensors"]}
    assert stored.keys() == {f"{k}.weight" for k in range(len(shapes))}
    named = {t["name"]: t["label"] for t in inside["tensors"]}
    assert named == {name: re.sub(r", \d+% pruned$", "", form) for name, form in stored.items()}
    assert {t["name"]: t["label"][1] for t in apart["tensors"]} == named
    for key, name in (("snr_db", "snr_db"), ("worst", "worst"), ("cosine", "cosine")):
        found = {t["name"]: t[name] for t in apart["tensors"] if not t["equal"]}
        assert found == pytest.approx({t["name"]: t[key] for t in report["tensors"] if t["name"] in found}, rel=1e-9)
    assert apart["snr_db"] == pytest.approx(report["snr_db"], rel=1e-9)


@pytest.mark.promise("fault-D1")
def test_every_dtype_is_in_the_table(tmp_path: Path) -> None:
    """Complex numbers and codes narrower than a byte have no statistics."""
    path = tmp_path / "m.safetensors"
    header, offsets = encode_header([(f"{dtype}.weight", dtype, [2, 4]) for dtype in DTYPES])
    path.write_bytes(header + bytes(max(end for _, end in offsets.values())))
    for words in ([], ["--no-stats"]):
        result = run("inspect", path, *words)
        lines = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
        assert result.exit_code == 0 and set(lines) >= {f"{dtype}.weight" for dtype in DTYPES}
        assert all(lines[f"{dtype}.weight"][1:5] == [dtype, "2", "x", "4"] for dtype in DTYPES)
    known = {t["name"] for t in json.loads(run("inspect", path, "--json").stdout)["tensors"] if "sparsity" in t}
    without = {f"{dtype}.weight" for dtype in ("C64", "F4", "F6_E2M3", "F6_E3M2")}
    assert {f"{dtype}.weight" for dtype in DTYPES} - known == without
    assert run("compare", path, path).exit_code == 0
