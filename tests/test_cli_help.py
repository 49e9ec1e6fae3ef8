"""What the help says, how it looks at two widths, and that what it says is true: examples run, words are those of the
checks."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
import typer.main
from cli_helpers import refused, run
from held_tensors import normal
from model_helpers import save_folder
from torch_files import dictionary, floats, zip_file

from quantrim import words
from quantrim.cli import app
from quantrim.commands.program import flowing
from quantrim.files import open_checkpoint
from quantrim.model import plan
from quantrim.model.plan.readers import BOTH, Readers

PROGRAM: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = PROGRAM.commands
VALUES = {  # options of compress whose values have names, and how a wrong one is answered
    "--codebook": words.CODEBOOKS,
    "--scale": words.SCALE_RULES,
    "--scale-dtype": words.SCALE_DTYPES,
    "--prune-score": words.SCORES,
    "--prune-scope": words.SCOPES,
    "--for": words.READERS,
    "--dtype": words.NARROW_FLOATS,
    "--storage": words.STORAGES,
}


@pytest.fixture(params=[80, 120])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder whose readers are known."""
    layers = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    arrays = {f"model.layers.{n}.{name}.weight": normal(128, 128, seed=n) for n in range(2) for name in layers}
    arrays["model.embed_tokens.weight"] = arrays["lm_head.weight"] = normal(256, 128)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}
    return save_folder(tmp_path / "llama", arrays, config=config)


def help_of(command: str) -> str:
    result = run(*([command] if command else []), "--help")
    assert result.exit_code == 0
    return result.stdout


def panels(text: str) -> dict[str, str]:
    """The text in each box, by its title, on one line."""
    found = re.findall(r"╭─ (.*?) ─+╮\n(.*?)╰", text, re.S)
    return {title: " ".join(body.replace("│", " ").split()) for title, body in found}


def examples(command: str) -> list[tuple[str, str]]:
    """The command lines of the help, each with the comment above it."""
    text = COMMANDS[command].help.split("Examples:\n")[1].split("\n\n")[0]
    lines = [line.strip() for line in text.splitlines()]
    return [(lines[k - 1], line) for k, line in enumerate(lines) if not line.startswith("#")]


# How it looks


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_flags_and_arguments_show_no_types(command: str, width: int) -> None:
    text = help_of(command)
    assert not re.search(r"<\w+>|\{\w+\}|BOOLEAN|\bPATH\b", text)
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("command", COMMANDS)
def test_paragraphs_fill_the_width_and_examples_stay_on_their_lines(command: str, width: int) -> None:
    shown = [line.strip() for line in help_of(command).split("╭")[0].splitlines()]
    for paragraph in COMMANDS[command].help.replace("\\[", "[").split("\n\n"):
        indented = "\n " in paragraph
        expected = paragraph.splitlines() if indented else textwrap.wrap(paragraph, width - 2, break_on_hyphens=False)
        first = shown.index(expected[0].strip())
        assert shown[first : first + len(expected)] == [line.strip() for line in expected]


def test_paragraphs_flow_where_no_line_is_indented() -> None:
    assert flowing("a\nb\n\nc:\n  d\n  e\nf") == "a b\n\nc:\n  d\n  e\nf"


def test_all_of_an_options_help_is_shown(width: int) -> None:
    """Markup and emoji leave no word out: `N:M: of` was once a letter in a circle."""
    for command in COMMANDS.values():
        shown = re.sub(r"\s", "", " ".join(panels(help_of(command.name)).values()))
        for p in command.params:
            if len(p.help) < 40:  # within one line, which words of other columns do not come between
                assert re.sub(r"\s", "", p.help) in shown, p.help
        assert set(shown) & set("Ⓜ") == set() and shown.isascii()


def test_the_options_that_matter_come_first(width: int) -> None:
    found = panels(help_of("compress"))
    assert list(found) == ["Arguments", "Rounding", "Pruning", "Which tensors", "Output", "Running"]
    assert re.findall(r"--[\w-]+", found["Running"]) == ["--dry-run", "--overwrite", "--threads", "--json", "--help"]


# What it says


def test_every_example_of_compress_says_what_it_is_for() -> None:
    found = examples("compress")
    assert 6 <= len(found) <= 9 and found[0][1] == "quantrim compress llama/ small/"
    assert all(comment.startswith("# ") for comment, _ in found)


@pytest.mark.parametrize("line", [line for _, line in examples("compress")])
def test_every_example_of_compress_runs(line: str, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = COMMANDS["compress"].help.split("counts:\n")[1].replace("\\[", "[")
    llama.with_name("recipe.toml").write_text(textwrap.dedent(recipe))
    monkeypatch.chdir(llama.parent)
    zip_file(Path("model.pth"), dictionary({"up.weight": floats(64, 64)}), {"0": bytes(4 * 64 * 64)})
    result = run(*shlex.split(line)[1:])
    assert result.exit_code == 0, result.stderr
    written = [name for name in ("small", "trial", "trial.npz") if Path(name).exists()]
    assert len(written) == ("--dry-run" not in line)


@pytest.mark.parametrize("option", VALUES)
def test_help_completion_and_checks_have_one_list(option: str, llama: Path) -> None:
    values = VALUES[option]
    (found,) = (p for p in COMMANDS["compress"].params if option in p.opts)
    context = typer.Context(COMMANDS["compress"])
    assert [item.value for item in found.shell_complete(context, "")] == list(values)
    said = f"{found.metavar} {found.help}".replace("|\n", "|")
    assert all(re.search(rf"\b{value}\b", said) for value in values)
    line = refused(run("compress", llama, llama.with_name("out"), "--prune", "0.5", option, "x"))
    assert re.findall(r"'(\w+)'", line.split(" must be one of ")[1].split(", not ")[0]) == list(values)


@pytest.mark.parametrize(
    ("option", "default"),
    [
        ("--bits", "4 by default"),
        ("--group-size", "32 by default"),
        ("--clusters", "2..256"),
        ("--symmetric", r"zero \(default\)"),
        ("--scale", "mse: default below 8 bits"),
        ("--scale-dtype", "by default bfloat16 for bfloat16 weights, .*else float16"),
        ("--prune-score", r"magnitude \(default\)"),
        ("--prune-scope", r"each tensor \(default\)"),
        ("--min-elements", "4096 by default"),
        ("--for", "By default transformers and vllm both"),
        ("--storage", r"auto \(default\)"),
        ("--threads", "all by default"),
    ],
)
def test_defaults_and_ranges_are_said(option: str, default: str) -> None:
    (found,) = (p for p in COMMANDS["compress"].params if option in p.opts)
    assert re.search(default, found.help)


def test_who_opens_a_result_is_told_as_the_plan_decides(llama: Path) -> None:
    """By the options that stand in the row "quantrim"."""
    table = COMMANDS["compress"].help.split("Who opens the result:\n")[1].split("\nOf what")[0]
    private = table.split("\n  quantrim ")[1]
    given: dict[str, dict[str, Any]] = {
        "--for any": {"reader": "any"},
        "--include": {"include": "*q_proj*"},
        "--clusters": {"clusters": 16},
        "--recognize": {"recognize": True},
        "--storage sparse": {"storage": "sparse", "prune": 0.5},
        "--codebook": {"codebook": "mxfp4"},
    }
    with open_checkpoint(llama) as checkpoint:
        readers = Readers(checkpoint)

        def of(**options: Any) -> set[str]:
            return {readers.of(t.settings) for t in plan(llama, **options).tensors if not t.copied}

        for option, options in given.items():
            assert option in private and of(**options) == {"any"}, option
        assert of() == of(bits=8) == of(codebook="nf4") == {BOTH}


def test_groups_are_noted_where_somebody_asked_for_them(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "m", {"a.weight": normal(96, 96), "b.weight": normal(64, 160)}, config={})
    said = "other groups than asked for"
    for options, expected in (({}, False), ({"bits": 3}, False), ({"group_size": 128}, True)):
        assert any(said in note for note in plan(source, **options).notes) == expected


# What the command line does with what was typed


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["plain", "json"])
def test_a_dry_run_refuses_a_report(words: list[str], llama: Path) -> None:
    report = llama.with_name("r.md")
    line = refused(run("compress", llama, llama.with_name("out"), "--dry-run", "--report", report, *words))
    assert line == "--report must be given without --dry-run, which writes nothing; --json prints the plan"
    assert not report.exists()


def test_settings_say_none_in_one_way(llama: Path) -> None:
    data = json.loads(run("compress", llama, llama.with_name("out"), "--dry-run", "--json").stdout)
    top = {key: value for key, value in data["settings"].items() if key not in ("rule", "remove_units")}
    assert None not in top.values()
    assert (top["max_shard_size"], top["dtype"], top["simulate"], top["strict"]) == ("none", "none", False, False)
    assert plan(llama, recipe=data["settings"]).recipe.max_shard_size is None
