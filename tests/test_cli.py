"""The command line, in this process: what each command prints, writes and refuses.

test_cli_process.py runs it as a program of its own."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import five_layers, refused, run
from held_tensors import normal
from model_helpers import save_folder, small_model
from rich.console import Console
from safetensors.numpy import load_file, save_file

import quantrim as qt
from quantrim.commands import compress as compress_command
from quantrim.commands import compress_options, outcome, progress, terminal
from quantrim.commands import info as info_command
from quantrim.commands import inspect as inspect_command
from quantrim.files import open_checkpoint
from quantrim.model.report import inspect as summary
from quantrim.model.report.provenance import stamp

EVIL = "\x1b[31mred\n\u202etxt\x07"
ESCAPED = r"\x1b[31mred\n\u202etxt\x07"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return five_layers(tmp_path)


@pytest.fixture
def small(model: Path) -> Path:
    path = model.with_name("small.safetensors")
    qt.compress(model, path)
    return path


# Help


@pytest.mark.parametrize(
    "command", ["compress", "decompress", "restore", "inspect", "compare", "split", "merge", "info", "demo"]
)
def test_help_shows_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout and f"\n   quantrim {command}" in result.stdout
    assert result.stdout == run(command, "-h").stdout


def test_help_shows_a_recipe() -> None:
    assert "[[rule]]" in run("compress", "--help").stdout


def test_all_commands_are_listed_and_the_version_is_known() -> None:
    result = run("--help")
    commands = ("compress", "decompress", "restore", "inspect", "compare", "split", "merge", "info", "demo")
    assert all(word in result.stdout for word in commands)
    bare = run()
    assert bare.exit_code == 2 and bare.stderr == "" and bare.stdout.strip() == result.stdout.strip()
    assert run("--version").stdout == f"quantrim {qt.__version__}\n"


# Refusals: one line on stderr, nothing written


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["polish"], "no such command: polish (see quantrim --help)"),
        (["compress"], "Missing argument 'SRC'. (see quantrim compress --help)"),
        (["compress", "MODEL", "OUT", "--bits", "9"], "bits must be an integer of 2..8, not 9"),
        (["compress", "MODEL", "OUT", "--bits", "x"], "bits must be an integer of 2..8, not 'x'"),
        (["compress", "MODEL", "OUT", "--bits", "none"], "can be compressed: nothing to do: neither bits nor prune"),
        (
            ["compress", "MODEL", "OUT", "--bits", "none", "--prune", "0.5", "--scale", "mse", "--asymmetric"],
            "--asymmetric must not be given with --bits none, which writes no codes",
        ),
        (["compress", "MODEL", "OUT", "--group-size", "0"], "--group-size must be an integer of 1.."),
        (["compress", "MODEL", "OUT", "--group-size", "row"], "--group-size must be"),
        (["compress", "MODEL", "OUT", "--scale", "best"], "scale must be one of"),
        (["compress", "MODEL", "OUT", "--scale-dtype", "int8"], "--scale-dtype must be one of"),
        (["compress", "MODEL", "OUT", "--prune", "1.5"], "prune must be a number of 0.0..1.0, not 1.5"),
        (["compress", "MODEL", "OUT", "--prune", "nan"], "prune must be a number of 0.0..1.0, not nan"),
        (["compress", "MODEL", "OUT", "--prune", "4:2"], 'prune must be a fraction of 0..1 or "n:m"'),
        (["compress", "MODEL", "OUT", "--include", "x*"], "--include 'x*' matched 0 tensors"),
        (["compress", "MODEL", "OUT", "--threads", "0"], "--threads must be an integer of 1..1024, not 0"),
        (
            ["compress", "MODEL", "OUT", "--report", "r.txt"],
            "report must end in .html, .json or .md, not 'r.txt'",
        ),
        (
            ["compress", "MODEL", "OUT", "--report", "no/r.md"],
            "--report must be in a folder that exists, not 'no'",
        ),
        (["compress", "MODEL", "MODEL", "--overwrite"], "must not be the source"),
        (["compress", "MODEL", "MODEL"], "must not be the source"),
        (["compress", "MODEL", "OUT", "--recipe", "MODEL"], "must be UTF-8"),
        (["split", "MODEL", "PARTS"], "give either --max-size or --layers"),
        (["split", "MODEL", "PARTS", "--layers", "1", "--max-size", "1GB"], "give either --max-size or --layers"),
        (["split", "MODEL", "PARTS", "--layers", "0"], "layers must be an integer of 1.."),
        (["split", "MODEL", "PARTS", "--max-size", "-1"], "--max-size must be a number of bytes, such as 5GB"),
        (["split", "MODEL", "PARTS", "--max-size", "5 gallons"], "--max-size must be a number of bytes, such as 5GB"),
        (["split", "MODEL", "OUT", "--layers", "1"], "must be a folder, not a .safetensors file"),
        (["split", "MODEL", "OUT", "--layers", "1", "--dry-run"], "must be a folder, not a .safetensors file"),
        (["split", "MODEL", "MODEL", "--layers", "1"], "must not be the source"),
        (["split", "MODEL", "SMALL", "--layers", "1"], "exists; add --overwrite to replace it"),
        (["merge", "MODEL", "OUT", "--drop", "x*"], "--drop 'x*' matched 0 tensors"),
        (["merge", "MODEL", "OUT", "--drop", "*"], "drop must leave a tensor, not none"),
        (["merge", "MODEL", "OUT", "--drop-lowest", "5"], "--drop-lowest must be an integer of 0..4, not 5"),
        (["merge", "MODEL", "OUT", "--drop-lowest", "x"], "Invalid value for '--drop-lowest'"),
        (["merge", "MODEL", "SMALL"], "exists; add --overwrite to replace it"),
        (["merge", "MODEL", "MODEL", "--overwrite"], "must not be the source"),
        (["inspect", "/proc/self/fdinfo"], "the folder must hold a .safetensors file"),
        (["inspect", "/dev/null"], "must be a regular file, not a character device"),
        (["compare", "MODEL", "SMALL", "more"], "Got unexpected extra argument"),
    ],
)
def test_bad_input_is_exit_code_2(
    words: list[str], said: str, model: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    before = {path.name: path.read_bytes() for path in model.parent.iterdir()}
    names = {"MODEL": model.name, "SMALL": small.name, "OUT": "out.safetensors", "PARTS": "parts"}
    assert said in refused(run(*(names.get(word, word) for word in words)))
    assert {path.name: path.read_bytes() for path in model.parent.iterdir()} == before


@pytest.mark.promise("D96")
@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "nowhere"),
        ("compare", "nowhere", "MODEL"),
        ("compress", "nowhere", "out.safetensors"),
        ("compress", "MODEL", "no/out.safetensors"),
        ("compress", "MODEL", "out.safetensors", "--recipe", "nowhere"),
    ],
)
def test_what_the_machine_refuses_is_exit_code_3(
    words: tuple[str, ...], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    line = refused(run(*(model.name if word == "MODEL" else word for word in words)), 3)
    assert line in ("'nowhere': No such file or directory", "'no': No such file or directory")


def test_an_existing_target_asks_for_overwrite(model: Path, small: Path) -> None:
    before = small.read_bytes()
    assert refused(run("compress", model, small)) == f"{str(small)!r} exists; add --overwrite to replace it"
    assert small.read_bytes() == before
    assert run("compress", model, small, "--bits", 8, "--overwrite").exit_code == 0
    assert small.read_bytes() != before


@pytest.mark.promise("C57")
@pytest.mark.parametrize("at", ["path", "command", "tensor"])
def test_names_cannot_move_the_cursor(at: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    if at == "tensor":
        save_file({f"{EVIL}.weight": np.full((64, 128), np.nan, np.float32)}, path)
        line = refused(run("compress", path, tmp_path / "out.safetensors"))
    elif at == "command":
        line = refused(run(f"a{EVIL}"))  # click takes a word that begins with ESC for an option
    else:
        line = refused(run("inspect", tmp_path / EVIL.replace("/", "")), 3)
    assert "red" in line and "x1b[31m" in line


@pytest.mark.promise("C57")
@pytest.mark.parametrize("terminal_like", [False, True])
def test_names_in_tables_are_escaped(terminal_like: bool, tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    save_file({EVIL: normal(4, 4), "[bold]x[/bold]:smile:": normal(4, 4)}, path)
    text = io.StringIO()
    out = Console(file=text, force_terminal=terminal_like, color_system=None, width=200)
    inspect_command.show(summary.inspect(path), out)
    assert ESCAPED in text.getvalue() and "[bold]x[/bold]:smile:" in text.getvalue()
    assert "\x1b" not in text.getvalue() and "\u202e" not in text.getvalue()


# Commands


def test_split_and_merge_there_and_back(model: Path) -> None:
    parts, whole = model.with_name("parts"), model.with_name("whole.safetensors")
    dry = run("split", model, parts, "--layers", 2, "--dry-run")
    assert dry.exit_code == 0 and "share of |w|" in dry.stdout and "Nothing was written" in dry.stdout
    assert not parts.exists()
    done = run("split", model, parts, "--layers", 2)
    assert done.exit_code == 0 and "model-00004-of-00004.safetensors" in done.stdout and "6 tensors" in done.stdout
    assert run("merge", parts, whole).exit_code == 0 and whole.read_bytes() == model.read_bytes()
    sized = json.loads(run("split", model, parts, "--max-size", "0.1MB", "--overwrite", "--json").stdout)
    assert [shard["name"] for shard in sized["shards"]] == [p.name for p in sorted(parts.glob("*.safetensors"))]
    assert sum(len(shard["tensors"]) for shard in sized["shards"]) == 6


def test_merge_shows_what_it_drops(model: Path) -> None:
    out = model.with_name("out.safetensors")
    dry = run("merge", model, out, "--drop-lowest", 1, "--dry-run", "--json")
    data = json.loads(dry.stdout)
    lowest = min(data["layers"], key=lambda layer: layer["l1"])
    assert [layer["name"] for layer in data["lowest"]] == [lowest["name"]] and not out.exists()
    table = run("merge", model, out, "--drop-lowest", 1, "--dry-run").stdout
    assert f"{lowest['name']}: dropped, " in table and "names and config.json stay as they were" in table
    assert run("merge", model, out, "--drop-lowest", 1).exit_code == 0
    with open_checkpoint(out) as checkpoint:
        assert set(checkpoint) == {f"layers.{k}.weight" for k in range(5)} - {f"{lowest['name']}.weight"} | {
            "norm.weight"
        }


def test_compress_does_what_the_function_does(model: Path) -> None:
    a, b = model.with_name("a.safetensors"), model.with_name("b.safetensors")
    result = run(
        "compress", model, a, "--bits", 3, "--group-size", 32, "--asymmetric", "--scale", "mse",
        "--scale-dtype", "bfloat16", "--prune", "2:4", "--exclude", "layers.0.*", "--exclude", "layers.1.*",
        "--min-elements", 10, "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    qt.compress(
        model, b, bits=3, group_size=32, symmetric=False, scale="mse", scale_dtype="bfloat16", prune="2:4",
        exclude=["layers.0.*", "layers.1.*"], min_elements=10,
    )  # fmt: skip
    assert a.read_bytes() == b.read_bytes()
    assert result.stderr == ""


@pytest.mark.parametrize(
    "words,options",
    [
        (["--codebook", "ternary", "--group-size", "tensor"], {"codebook": "ternary", "group_size": "tensor"}),
        (["--codebook", "-1,0,0.5,1"], {"codebook": [-1, 0, 0.5, 1]}),
        (["--clusters", "12"], {"clusters": 12}),
        (["--prune", "0.8", "--bits", "4"], {"prune": 0.8, "bits": 4}),
        (["--recognize", "--scale", "0.0625"], {"recognize": True, "scale": 0.0625}),
    ],
    ids=str,
)
def test_other_layouts_are_those_of_the_function(model: Path, words: list[str], options: dict[str, Any]) -> None:
    result = run("compress", model, model.with_name("t.safetensors"), *words)
    assert result.exit_code == 0, result.stderr
    qt.compress(model, model.with_name("u.safetensors"), **options)
    assert model.with_name("t.safetensors").read_bytes() == model.with_name("u.safetensors").read_bytes()
    assert ("what each step saved" in result.stdout) == ("prune" in options)
    wish = json.loads(run("compress", model, model.with_name("v.safetensors"), "--dry-run", "--json", *words).stdout)
    assert wish["at_most"] == ("prune" in options)


def test_compress_cuts_a_folder_anew(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "source", small_model())
    result = run("compress", source, tmp_path / "out", "--max-shard-size", "8KB")
    assert result.exit_code == 0, result.stderr
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")]
    assert len(sizes) > 1 and max(sizes) <= 8000


def test_a_codebook_that_is_none_is_bad_input(model: Path) -> None:
    result = run("compress", model, model.with_name("t.safetensors"), "--codebook", "nf5")
    assert result.exit_code == 2 and "codebook must be one of 'nf4'" in result.stderr
    assert not model.with_name("t.safetensors").exists()


def test_compress_reads_a_recipe(model: Path) -> None:
    recipe = model.with_name("recipe.toml")
    recipe.write_text('bits = 4\n[[rule]]\nmatch = "layers.0.*"\nbits = 8\n')
    out = model.with_name("out.safetensors")
    assert run("compress", model, out, "--recipe", recipe).exit_code == 0
    stored = {t.name: t.label for t in summary.inspect(out, stats=False).tensors}
    assert stored["layers.0.weight"].startswith("int8") and stored["layers.1.weight"].startswith("int4")


def test_equal_sizes_are_no_ratio(model: Path) -> None:
    out = model.with_name("out.safetensors")
    run("compress", model, out, "--simulate", "--bits", "4")
    assert "x smaller" not in run("compare", model, out).stdout


def test_compress_closes_with_what_it_did(model: Path) -> None:
    out = model.with_name("out.safetensors")
    text = run("compress", model, out, "--bits", "4", "--prune", "0.5").stdout
    lines = dict(line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("Furthest"))
    sizes = [terminal.size(path.stat().st_size) for path in (model, out)]
    assert lines["size"] == f"{sizes[0]} became {sizes[1]}, {model.stat().st_size / out.stat().st_size:.2f}x smaller"
    assert lines["tensors"] == "5 compressed, 1 copied" and lines["zeros"] == "50.0 % of the compressed weights"
    assert lines["written"] == str(out) and " dB over all compressed weights" in lines["SNR"]
    assert sum(line.startswith("layers.") for line in text.splitlines()) == compress_command.WORST


def test_compress_and_compare_give_the_same_overall_figure(model: Path) -> None:
    out = model.with_name("out.safetensors")
    said = json.loads(run("compress", model, out, "--scale-dtype", "float32", "--json").stdout)["snr_db"]
    found = json.loads(run("compare", model, out, "--json").stdout)["snr_db"]
    assert said == pytest.approx(found, rel=1e-12)  # order of sums


def test_the_worst_tensors_are_the_worst(model: Path) -> None:
    report = qt.compress(model, model.with_name("out.safetensors"), bits=2)
    snrs = sorted(t.snr_db for t in report.tensors if t.snr_db is not None)
    assert [t.snr_db for t in compress_command.worst_tensors(report)] == snrs[:3]


def test_compress_prints_json(model: Path) -> None:
    data = json.loads(run("compress", model, model.with_name("out.safetensors"), "--json").stdout)
    assert data["ratio"] > 6.5 and len(data["tensors"]) == 6 and data["gb_per_s"] > 0


@pytest.mark.parametrize("suffix", ["html", "json", "md"])
def test_compress_writes_a_report(model: Path, suffix: str) -> None:
    report = model.with_name(f"report.{suffix}")
    assert run("compress", model, model.with_name("out.safetensors"), "--report", report).exit_code == 0
    assert "layers.3.weight" in report.read_text()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_dry_run_writes_nothing_and_says_the_exact_size(model: Path, as_json: bool) -> None:
    out = model.with_name("out.safetensors")
    result = run("compress", model, out, "--dry-run", "--bits", 3, *(["--json"] if as_json else []))
    assert result.exit_code == 0 and list(model.parent.iterdir()) == [model]
    run("compress", model, out, "--bits", 3)
    size = out.stat().st_size
    if as_json:
        assert json.loads(result.stdout)["stored_bytes"] == size
    else:
        assert f"({size:,} bytes)" in result.stdout and "Nothing was written" in result.stdout


def test_a_dry_run_warns_of_a_target_that_exists(model: Path, small: Path) -> None:
    result = run("compress", model, small, "--dry-run")
    assert result.exit_code == 0 and "exists; to replace it will take --overwrite" in result.stderr
    assert run("compress", model, small, "--dry-run", "--overwrite").stderr == ""


def test_inspect_shows_every_tensor(model: Path) -> None:
    lines = run("inspect", model).stdout.splitlines()
    assert lines[0].split()[:3] == ["tensor", "stored", "as"] and len(lines) == 8
    row = next(line for line in lines if line.startswith("layers.2.weight"))
    w = load_file(model)["layers.2.weight"]
    for part in ("F32", "96 x 128", "49.2 kB", f"{w.min():.4g}", f"{w.max():.4g}", "█"):
        assert part in row
    assert lines[-1] == "6 tensors, 61,568 weights, 246.3 kB, 32 bits per weight, 0.0 % zeros, safetensors"


def test_inspect_names_tensors_with_nan(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": np.array([[1.0, np.nan]], np.float32)}, path)
    result = run("inspect", path)
    assert result.exit_code == 0 and "w: 1 of 2 values are NaN or infinite" in result.stdout


def test_inspect_prints_json(small: Path) -> None:
    data = json.loads(run("inspect", small, "--json").stdout)
    tensors = {t["name"]: t for t in data["tensors"]}
    assert tensors["layers.0.weight"]["label"] == "int4 group 32 symmetric"
    assert len(tensors["layers.0.weight"]["histogram"]["counts"]) == summary.BINS
    headers = json.loads(run("inspect", small, "--json", "--no-stats").stdout)
    assert "histogram" not in headers["tensors"][0] and headers["nbytes"] == data["nbytes"]


def test_compare_shows_every_tensor(model: Path, small: Path) -> None:
    result = run("compare", model, small)
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    assert "exact" in lines["norm.weight"] and "dB" in lines["layers.0.weight"]
    assert result.stdout.splitlines()[-1].startswith("6 tensors in both, 1 exact, the others SNR ")
    assert run("compare", model, model).stdout.splitlines()[-1].startswith("6 tensors in both, all exact, A ")


def test_compare_of_different_models_is_exit_code_2(model: Path) -> None:
    other = model.with_name("other.safetensors")
    arrays = load_file(model)
    arrays["new"] = arrays.pop("layers.0.weight")
    arrays["layers.1.weight"] = arrays["layers.1.weight"].reshape(128, 96)
    save_file(arrays, other)
    result = run("compare", model, other)
    assert result.exit_code == 2 and result.stderr == ""
    for line in (
        "only in A: layers.0.weight",
        "only in B: new",
        "layers.1.weight: shape 96 x 128 in A, 128 x 96 in B",
    ):
        assert line in result.stdout.splitlines()
    data = json.loads(run("compare", model, other, "--json").stdout)
    assert (data["matching"], data["missing"], data["extra"]) == (False, ["layers.0.weight"], ["new"])


def test_compare_json_has_null_for_infinite_decibels(model: Path) -> None:
    data = json.loads(run("compare", model, model, "--json").stdout)
    assert data["equal"] and data["snr_db"] is None and data["tensors"][0]["snr_db"] is None


def test_info_says_what_computes() -> None:
    data = json.loads(run("info", "--json").stdout)
    assert (data["version"], data["isa"], data["found"]) == (qt.__version__, qt.backend.current_isa(), qt.isas())
    assert set(data["found"]) - {"reference"} <= set(data["isas"]) and data["threads"] == qt.backend.current_threads()
    assert info_command.gather().numpy == np.__version__
    text = run("info").stdout
    assert all(word in text for word in (qt.__version__, qt.backend.current_isa(), np.__version__, "safetensors"))


def test_demo_tells_the_story() -> None:
    text = run("demo").stdout
    assert "float32, as trained              98.6 %  203,752   1.00x" in text
    assert text.splitlines()[-1].startswith("Next, with a model of yours: quantrim compress ")
    assert json.loads(run("demo", "--json").stdout)["rows"][0]["images"] == 360


# What surrounds the commands


def test_warnings_are_lines_of_ours(tmp_path: Path, model: Path) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(load_file(model), model.name)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    result = run("inspect", tmp_path, "--no-stats")
    assert result.exit_code == 0
    assert result.stderr.startswith("quantrim: warning: ") and "total_size" in result.stderr
    assert "UserWarning" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("x\ny"), 2, r"x\ny"),
        (TypeError("t"), 2, "t"),
        (OSError(errno.ENOSPC, "No space left on device", "/a\x1b"), 3, r"'/a\x1b': No space left on device"),
        (OSError("odd"), 3, "odd"),
        (MemoryError(), 3, "not enough memory"),
    ],
)
def test_errors_become_a_line_and_a_code(
    error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome.exit_code(error) == code
    assert capsys.readouterr().err == f"quantrim: error: {said}\n"


def test_errors_of_ours_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        outcome.exit_code(ZeroDivisionError())


def test_a_traceback_is_there_for_the_asking(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUANTRIM_DEBUG", "1")
    assert outcome.exit_code(ValueError("x")) == 2
    assert "ValueError: x" in capsys.readouterr().err


@pytest.mark.promise("D101")
def test_a_signal_raises_once_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(outcome.Stopped) as stopped, outcome.signals_raise():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # while the first one unwinds: no effect
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.promise("D101")
def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with outcome.signals_raise():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_log_gets_a_line_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = progress._Lines("compressing", lambda: now)
    for now in (1.0, 4.9, 5.0, 6.0, 9.9, 10.0):
        lines(int(now * 1e8), 2_000_000_000, "a\x1bb")
    assert capsys.readouterr().err.splitlines() == [
        r"quantrim: compressing: 25 %, 500.0 MB of 2.0 GB, 100.0 MB/s, a\x1bb",
        r"quantrim: compressing: 50 %, 1.0 GB of 2.0 GB, 100.0 MB/s, a\x1bb",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    drawn = Console(file=text, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(terminal, "console", lambda stderr: drawn)
    with progress.shown("reading") as callback:
        callback(50, 100, "x" * 30 + "layers.7.[weight]\x1b")
        callback(100, 100, "last")
    assert "reading" in text.getvalue() and "100%" in text.getvalue() and "last" in text.getvalue()


def test_tables_leave_columns_out_where_there_is_no_room() -> None:
    rows = [["n" * 60, "1" * 20, "2" * 20, "3" * 20]]
    text = io.StringIO()
    out = Console(file=text, force_terminal=True, color_system=None, width=80)
    terminal.print_table(out, ("name", "one", "two", "three"), "lrrr", rows, spare=("two",))
    assert "2" not in text.getvalue() and "1" * 20 in text.getvalue() and "3" * 20 in text.getvalue()
    assert "(no room for two; a wider terminal or --json has them)" in text.getvalue()
    assert max(map(len, text.getvalue().splitlines())) <= 80


def test_a_column_that_was_left_out_too_early_is_taken_back() -> None:
    lines = [["name", "1" * 10, "2" * 10, "3" * 40]]
    assert terminal.fitting(lines, 40, [1, 2, 3]) == [0, 1, 2]
    assert terminal.fitting(lines, 20, [1, 2, 3]) == [0, 2]
    assert terminal.fitting(lines, 10, [1, 2, 3]) == [0]
    assert terminal.fitting(lines, 72, [1, 2, 3]) == [0, 1, 2, 3]


def test_histograms_fall_back_to_ascii() -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert terminal.bars([0, 1, 100], ascii_only) == " .@"
    assert terminal.bars([0, 0]) == "  " and terminal.bars([]) == ""


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json({"a": float("inf"), "b": [float("nan"), 1.5], "c": "\x1b\u202e"})
    text = capsys.readouterr().out
    assert text.isascii() and json.loads(text) == {**stamp(), "a": None, "b": [None, 1.5], "c": "\x1b\u202e"}


def test_options_are_passed_on_as_they_are_meant() -> None:
    options: dict[str, Any] = {
        "group_size": "channel",
        "prune": "0.25",
        "symmetric": False,
        "min_elements": 0,
    }
    assert compress_options.asked(options) == {**options, "prune": 0.25}
    assert compress_options.asked({"bits": None, "include": []}) == {}


def test_stdout_that_is_full_is_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stdout", Full())
    assert outcome.finish_output(0) == 3
    assert capsys.readouterr().err == "quantrim: error: No space left on device\n"


def test_warnings_of_others_are_left_alone() -> None:
    with pytest.warns(DeprecationWarning), outcome.warnings_said():
        warnings.warn("theirs", DeprecationWarning, stacklevel=1)


def test_every_tensor_of_a_folder_is_seen(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(model.read_bytes())
    out = tmp_path / "out"
    assert run("compress", folder, out).exit_code == 0
    with open_checkpoint(out) as checkpoint:
        assert checkpoint.config is not None and "quantization_config" in checkpoint.config
    assert run("compare", folder, out).exit_code == 0
