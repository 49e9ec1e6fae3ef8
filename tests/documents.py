"""README.md and the pages of docs/: their examples, and the folder that these run in.

A fenced block in `sh` runs in bash; in `console`, the commands after `$` run and must print what is below them; in
`python`, it runs in the names that the page's blocks before have left; in `toml`, it becomes recipe.toml for those
after it. `<!-- not run: why -->` above a block keeps it from running.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from quantrim.demo import digits
from quantrim.model import Recipe

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
RUN = ("sh", "console", "python", "toml")
_BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
_OF_A_RUN = re.compile(r"\d+\.\d+ s, [\d.]+ .?B/s, \d+ threads?|peak \S+ \S+")
MINILM = "QUANTRIM_MINILM"  # in the environment: the folder of that model


@dataclass(frozen=True)
class Block:
    """An example. why: it does not run; '' for one that does."""

    page: str
    line: int
    language: str
    code: str
    why: str

    @property
    def first(self) -> str:
        """Its first line, without a comment, which names it."""
        return re.split(r"\s+# |\n", self.code, maxsplit=1)[0]


def blocks(page: str) -> list[Block]:
    """Return the examples of a page, in order."""
    text = PAGES[page].read_text()
    found = []
    for match in _BLOCK.finditer(text):
        if match["language"] in RUN:
            line = text.count("\n", 0, match.start("code")) + 1
            found.append(Block(page, line, match["language"], match["code"], match["why"] or ""))
    return found


def workspace(folder: Path) -> None:
    """Fill a folder with what examples read: my-model, a small Llama; model.safetensors, the demo's network; MiniLM."""
    llama(folder / "my-model")
    with digits.model_file() as path:
        shutil.copy(path, folder / "model.safetensors")
    real = os.environ.get(MINILM)
    if real:
        (folder / "MiniLM").symlink_to(real)
    else:
        shutil.copytree(folder / "my-model", folder / "MiniLM")


def llama(folder: Path, hidden: int = 256, between: int = 512, words: int = 512, layers: int = 2) -> None:
    """Write a model folder that says of itself to be a Llama of two heads."""
    rng = np.random.default_rng(0)

    def normal(rows: int, cols: int) -> Any:
        return (rng.standard_normal((rows, cols)) * 0.02).astype(np.float16)

    arrays = {"model.embed_tokens.weight": normal(words, hidden), "lm_head.weight": normal(words, hidden)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            arrays[f"{at}.self_attn.{name}.weight"] = normal(hidden, hidden)
        arrays[f"{at}.mlp.gate_proj.weight"] = normal(between, hidden)
        arrays[f"{at}.mlp.up_proj.weight"] = normal(between, hidden)
        arrays[f"{at}.mlp.down_proj.weight"] = normal(hidden, between)
        for name in ("input_layernorm", "post_attention_layernorm"):
            arrays[f"{at}.{name}.weight"] = np.ones(hidden, np.float16)
    arrays["model.norm.weight"] = np.ones(hidden, np.float16)
    folder.mkdir()
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "float16",
        "hidden_size": hidden, "intermediate_size": between, "vocab_size": words, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": hidden // 2, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def run(page: str, folder: Path) -> None:
    """Run the examples of a page in a folder. AssertionError, with page and line, for one that fails."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.why:
            continue
        place = f"{page}:{block.line}"
        if block.language == "toml":
            Recipe.from_toml(block.code)
            (folder / "recipe.toml").write_text(block.code)
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, PAGES[page], "exec"), names)
        elif block.language == "sh":
            _printed(block.code, folder, place)
        else:
            for command, output in _commands(block.code):
                printed = _printed(command, folder, place)
                if "MiniLM" not in command or MINILM in os.environ:
                    assert _comparable(printed) == _comparable(output), f"{place} prints\n{printed}"


def _commands(code: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block, with what it prints."""
    for piece in re.split(r"^\$ ", code, flags=re.M)[1:]:
        command, _, output = piece.partition("\n")
        yield command, output


def _printed(code: str, folder: Path, place: str) -> str:
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "110",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], cwd=folder, env=env, text=True, stdout=-1, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{place}:\n{code}\n{done.stdout}"
    return done.stdout


def _comparable(output: str) -> list[str]:
    """Return lines without what differs from run to run: seconds, speed."""
    return [_OF_A_RUN.sub("...", line.rstrip()) for line in output.strip().splitlines()]
