"""The page that a report can be: what it says, that its tags are closed and its bars as long as they should be."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from held_tensors import normal
from model_helpers import save, weights
from safetensors.numpy import save_file

import quantrim as qt
from quantrim.model import compress
from quantrim.model.edit.lossless import compress_lossless
from quantrim.model.report import html as report_html
from quantrim.model.report.figures import TensorReport
from quantrim.model.report.report import Report

EMPTY_TAGS = ("meta", "input")
RULES = {"bits": 8, "rule": [{"match": "*.1.*", "bits": 4, "prune": 0.5, "storage": "sparse"}]}


class Page(HTMLParser):
    """texts: what stands in elements of a tag or class; tags: names and attributes in order."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[tuple[dict[str, str | None], str]]] = []  # of tensors: attributes and text of each cell
        self.text = ""
        self.feed(report.to_html())
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in EMPTY_TAGS:
            return
        self.open.append(self.tags[-1])
        if any(attributes.get("class") == "rows" for _, attributes in self.open):
            if tag == "tr":
                self.rows.append([])
            elif tag in ("td", "th"):
                self.rows[-1].append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if "script" in tags or "style" in tags:
            return
        self.text += data
        if {"td", "th"} & {*tags} and self.rows:
            attributes, text = self.rows[-1][-1]
            self.rows[-1][-1] = (attributes, text + data)

    def widths(self, kind: str) -> list[float]:
        """Of bars, in the order of the page."""
        found = [a for tag, a in self.tags if tag == "span" and a.get("class") == kind]
        return [float((a["style"] or "").removeprefix("--width:").removesuffix("%")) for a in found]


@pytest.fixture
def report(tmp_path: Path) -> Report:
    arrays = {f"layers.{k}.weight": normal(96 * (k + 1), 128, seed=k) for k in range(3)}
    save_file({**arrays, "norm.weight": np.ones(128, np.float32)}, tmp_path / "model.safetensors")
    return qt.compress(tmp_path / "model.safetensors", tmp_path / "small.safetensors", recipe=RULES)


@pytest.mark.promise("fault-D26")
def test_figures_come_first(report: Report) -> None:
    page = Page(report)
    assert report.snr_db is not None
    shown = [
        f"{report.ratio:.2f}x",
        f"{report.snr_db:.1f} dB",
        f"{100 * report.sparsity:.1f} %",
        "1 copied as they were",
    ]
    places = [page.text.index(words) for words in [*shown, "Where the bytes are", "layers.2.weight", "Settings"]]
    assert places[-3:] == sorted(places[-3:]) and max(places[:-3]) < places[-3]
    assert f"{report.stored_bytes:,} of {report.source_bytes:,} bytes" in page.text


@pytest.mark.promise("fault-D26")
def test_settings_and_versions_are_said(report: Report) -> None:
    text = Page(report).text
    for key, value in report.versions.items():
        assert f"{key}{value}" in text
    assert "bits8" in text and "*.1.*bits4prune0.5storagesparse" in text
    assert "roundingeven" in text and "min_elements4096" in text  # defaults


@pytest.mark.promise("fault-D26")
def test_bars_are_in_proportion(report: Report) -> None:
    page = Page(report)
    most = max(t.source_bytes for t in report.tensors)
    wanted = [100 * max(t.source_bytes, t.stored_bytes) / most for t in report.tensors]
    assert report.steps is not None
    steps = [100 * n / report.steps.original for n in report.steps.sizes().values()]
    np.testing.assert_allclose(page.widths("bar"), steps + wanted, atol=0.01)
    errors = [10 ** (-t.snr_db / 20) for t in report.tensors if t.snr_db is not None]
    assert len(errors) == 3 and max(errors) > 2 * min(errors)
    np.testing.assert_allclose(page.widths("bar error"), [100 * e / max(errors) for e in errors], atol=0.01)
    parts = [float(x) for x in re.findall(r'<i class="\w+" style="--width:([\d.]+)%" title=', report.to_html())]
    kinds = {t.label for t in report.tensors}
    stored, source = (sum(getattr(t, f"{which}_bytes") for t in report.tensors) for which in ("stored", "source"))
    assert len(parts) == 2 * len(kinds) and sum(parts[: len(kinds)]) == pytest.approx(100, abs=0.05)
    assert sum(parts[len(kinds) :]) == pytest.approx(100 * stored / source, abs=0.05)


@pytest.mark.promise("fault-D26")
def test_every_column_can_be_sorted(report: Report) -> None:
    """What the script sorts by is in the cells: numbers where a column has them, or nothing."""
    html = report.to_html()
    head, *rows = Page(report).rows
    assert [text for _, text in head] == [name for name, _, _ in report_html._COLUMNS]
    assert html.count('<button type="button">') == len(head)
    assert [row[0][1] for row in rows] == [t.name for t in report.tensors]
    for t, row in zip(report.tensors, rows, strict=True):
        assert len(row) == len(head)
        found = {text: a.get("data-value") for (b, text), (a, _) in zip(head, row, strict=True) if "data-number" in b}
        wanted = (
            math.prod(t.shape),
            t.stored_bytes,
            t.snr_db and 10 ** (-t.snr_db / 20),
            t.snr_db,
            t.sparsity,
            t.cosine,
        )
        for x, want in zip(found.values(), (*wanted, t.worst), strict=True):
            assert (x is None) is (want is None) and (x is None or float(x) == want)


@pytest.mark.promise("fault-D26")
def test_a_page_needs_no_other_file_and_no_network(report: Report) -> None:
    html = report.to_html()
    assert "default-src 'none'" in html and 'name="viewport" content="width=device-width' in html
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|\bhref=|fetch\(|import ", html)
    css, script = (report_html._file(name) for name in ("report.css", "report.js"))
    assert css in html and script in html and "</" not in css + script


@pytest.mark.promise("fault-D26")
def test_without_errors_there_are_no_columns_for_them(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    save_file({"a.weight": normal(96, 128)}, tmp_path / "m.safetensors")
    page = Page(compress_lossless(tmp_path / "m.safetensors", tmp_path / "p.safetensors"))
    assert [text for _, text in page.rows[0]] == ["tensor", "shape", "stored as", "bytes"]
    assert {len(row) for row in page.rows} == {4}
    assert "exactevery bit is kept" in page.text and "largest error first" not in page.text


def tensor(name: str, nbytes: int = 4096, **more: Any) -> TensorReport:
    return TensorReport(name, (32, 32), nbytes, nbytes // 4, "int8 channel", "", 8, **more)


@pytest.mark.promise("fault-D26")
def test_names_cannot_be_markup(report: Report) -> None:
    names = ("</script><script>alert(1)", '"><img src=x onerror=alert(1)>', "a&lt;b", "\x1b[31m\u202etxt")
    hostile = dataclasses.replace(
        report, destination="/x/<b>&", notes=("<i>note",), tensors=tuple(tensor(name) for name in names),
        recipe={"exclude": ["<u>"], "rule": [{"match": "<s>*"}]},
    )  # fmt: skip
    page = Page(hostile)
    assert not {"img", "u", "s"} & {tag for tag, _ in page.tags} and [t for t, _ in page.tags].count("script") == 1
    assert [row[0][1] for row in page.rows[1:4]] == list(names[:3]) and "\x1b" not in page.text
    assert "\u202e" not in page.text and "<i>note" in page.text and "<s>*" in page.text


@pytest.mark.promise("fault-D26")
def test_extremes_are_said_in_numbers(report: Report) -> None:
    """Exact, nothing but zeros, larger than before, empty; no bar is longer than its place."""
    tensors = (
        tensor("exact", snr_db=math.inf, sparsity=0.0, cosine=1.0, worst=0.0),
        tensor("zeros", sparsity=1.0, worst=0.0),
        TensorReport("grown", (1,), 4, 400_000, "F32", ""),
        TensorReport("none", (0, 3), 0, 0, "F32", ""),
    )
    page = Page(dataclasses.replace(report, tensors=tensors, snr_db=math.inf))
    values = {row[0][1]: {a.get("data-label"): a.get("data-value") for a, _ in row} for row in page.rows[1:]}
    assert values["exact"]["SNR"] == "1000000000.0" and values["exact"]["error"] == "0.0"
    assert "SNR" not in values["zeros"] and values["zeros"]["zeros"] == "1.0"
    assert not page.widths("bar error") and all(0 <= width <= 100 for width in page.widths("bar"))
    assert page.text.count("exact") == 3  # the figure, a name, and its SNR
    assert "inf" not in page.text and "nan" not in page.text


@pytest.mark.promise("fault-D26")
def test_of_very_many_tensors_the_largest_are_shown(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_html, "MAX_ROWS", 3)
    many = tuple(tensor(f"t{k}", nbytes=4096 * (k % 5 + 1)) for k in range(10))
    page = Page(dataclasses.replace(report, tensors=many))
    assert [row[0][1] for row in page.rows[1:]] == ["t4", "t9", "t3"]
    assert "The 3 largest of 10 tensors; a report that ends in .json has all" in page.text


def test_a_report_shows_itself_in_one_line_and_in_notebooks(tmp_path: Path) -> None:
    report = compress(save(tmp_path / "m.safetensors", {"a.weight": weights(64, 64)}), tmp_path / "t.safetensors")
    assert repr(report).startswith("Report('") and "times smaller" in repr(report) and "\n" not in repr(report)
    framed = report._repr_html_()
    assert framed.startswith("<iframe srcdoc=") and html.unescape(framed[16:]).startswith(report.to_html()[:1000])
