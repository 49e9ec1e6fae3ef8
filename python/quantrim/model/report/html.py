"""A report as a page that needs no other file: figures first, then where the bytes are, then each tensor."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from ...files.disk.errors import quote
from ...sizes import readable
from .figures import Figures, TensorReport

# head, whether its values are numbers, whether it holds a bar
_COLUMNS = (
    ("tensor", False, False),
    ("shape", True, False),
    ("stored as", False, False),
    ("bytes", True, True),
    ("error", True, True),
    ("SNR", True, False),
    ("zeros", True, False),
    ("cosine", True, False),
    ("worst", True, False),
)
# said, column and way; that of errors last
_SORTS = (("by name", "0 ascending"), ("largest first", "3 descending"), ("largest error first", "4 descending"))
MAX_ROWS = 5000  # of tensors: a browser needs about a second for them, and minutes for 100,000
_WITHOUT_ERRORS = 4  # columns, where nothing was rounded or pruned
_COLOURS = 6  # in report.css, for kinds that shrank; the others are grey
_SAME = "same"  # the class of kinds that take as many bytes as before
_TABLES = ("rule", "remove_units")  # settings that are lists of tables
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # a page that asks no network


class _Kind(NamedTuple):
    """A label, and the tensors that have it."""

    name: str
    tensors: int
    source: int
    size: int


def page(report: Figures) -> str:
    """Return the whole document."""
    title = _shown(Path(report.destination).name or report.destination)
    kinds = _kinds(report.tensors)
    shrunk = [kind.name for kind in kinds if kind.size != kind.source]
    colours = {kind.name: _SAME for kind in kinds} | {name: f"k{k % _COLOURS}" for k, name in enumerate(shrunk)}
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: {report.ratio:.2f}x smaller</title><style>\n{_file('report.css')}</style></head>\n"
        f"<body><main><h1>{title}</h1>"
        f'<p class="faint">{_shown(report.source)} &rarr; {_shown(report.destination)}</p>\n'
        f"{_figures(report)}{_notes(report.notes)}{_where(kinds, colours)}{_steps(report)}"
        f"{_tensors(report.tensors, colours)}{_settings(report)}"
        f"<section><h2>Versions</h2>{_pairs(report.versions)}</section></main>\n"
        f"<script>\n{_file('report.js')}</script></body></html>\n"
    )


def _file(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text("utf-8")


def _shown(text: str) -> str:
    """Escape a text: safe on a page, and nothing in it that hides or moves text."""
    return html.escape(quote(text, len(text))[1:-1])


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>\n"


def _sheet(head: str, rows: str, kind: str = "") -> str:
    return f'<div class="sheet"><table{kind}><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


# Figures


def _figures(report: Figures) -> str:
    """Return what one wants to know first."""
    copied = sum(t.sparsity is None and t.stored_bytes == t.source_bytes for t in report.tensors)
    speed = f"{readable(report.source_bytes / report.seconds)}/s, " if report.seconds else ""
    found = [
        ("smaller", f"{report.ratio:.2f}x", f"{100 / report.ratio:.1f} % of the bytes"),
        ("size", readable(report.stored_bytes), f"{report.stored_bytes:,} of {report.source_bytes:,} bytes"),
    ]
    if report.snr_db is not None:
        share = f"error {_percent(_error(report.snr_db))} of the weights, root mean square"
        found.append(("SNR", _decibels(report.snr_db), share))
    elif report.recipe.get("lossless"):
        found.append(("SNR", "exact", "every bit is kept"))
    if any("pruned" in t.label for t in report.tensors):
        found.append(("zeros", f"{100 * report.sparsity:.1f} %", "of the compressed and pruned weights"))
    found.append(("tensors", f"{len(report.tensors):,}", f"{copied:,} copied as they were"))
    found.append(("time", f"{report.seconds:.2f} s", f"{speed}{report.threads} threads"))
    if report.peak_memory is not None:
        found.append(("memory", readable(report.peak_memory), "at most, of the process"))
    cards = "".join(f"<div><dt>{what}</dt><dd>{value}<small>{more}</small></dd></div>" for what, value, more in found)
    return f'<dl class="figures">{cards}</dl>\n'


def _error(snr_db: float) -> float:
    """Compute the root of the sum of squared errors as a share of that of squared weights."""
    return 10 ** (-snr_db / 20)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 or not share else f"{100 * share:.1e} %"


def _decibels(snr_db: float) -> str:
    return "exact" if math.isinf(snr_db) else f"{snr_db:.1f} dB"


def _notes(notes: Sequence[str]) -> str:
    rows = "".join(f"<li>{_shown(note)}</li>" for note in notes)
    return f'<ul class="notes">{rows}</ul>\n' if rows else ""


# Bytes


def _kinds(tensors: Sequence[TensorReport]) -> list[_Kind]:
    """Group tensors by their label, the most bytes first."""
    found: dict[str, _Kind] = {}
    for t in tensors:
        _, count, source, size = found.get(t.label, _Kind(t.label, 0, 0, 0))
        found[t.label] = _Kind(t.label, count + 1, source + t.source_bytes, size + t.stored_bytes)
    return sorted(found.values(), key=lambda kind: -kind.size)


def _where(kinds: Sequence[_Kind], colours: Mapping[str, str]) -> str:
    """Draw two bars of one scale, before and after, in the colours of the kinds."""
    sums = {"before": [kind.source for kind in kinds], "after": [kind.size for kind in kinds]}
    most = max(1, *map(sum, sums.values()))
    bars = ""
    for when, sizes in sums.items():
        pieces = "".join(
            f'<i class="{colours[kind.name]}" style="--width:{100 * size / most:.2f}%" title="{_shown(kind.name)}"></i>'
            for kind, size in zip(kinds, sizes, strict=True)
        )
        bars += f'<p class="all"><span>{when}</span><span class="stack">{pieces}</span></p>'
    rows = "\n".join(
        f'<tr><td class="text"><b class="{colours[kind.name]}"></b>{_shown(kind.name)}</td><td>{kind.tensors:,}</td>'
        f"<td>{readable(kind.source)}</td><td>{readable(kind.size)}</td></tr>"
        for kind in kinds
    )
    head = '<th class="text">stored as</th><th>tensors</th><th>before</th><th>after</th>'
    return _section("Where the bytes are", bars + _sheet(head, rows))


def _steps(report: Figures) -> str:
    if report.steps is None:
        return ""
    rows = "\n".join(
        f'<tr><td class="text">{html.escape(what)}{_bar(n, n, report.steps.original, "k0")}</td>'
        f"<td>{n:,}</td><td>{100 * n / max(1, report.steps.original):.1f} %</td></tr>"
        for what, n in report.steps.sizes().items()
    )
    head = '<th class="text">step</th><th>bytes</th><th>of the original</th>'
    return _section("What each step saved", _sheet(head, rows, ' class="steps"'))


def _bar(source: int, size: int, most: int, colour: str) -> str:
    """Draw a bar as long as the bytes before, filled as far as those after."""
    longest = max(source, size, 1)
    width, filled = min(100.0, 100 * longest / max(1, most)), 100 * size / longest
    inner = f'<i class="{colour}" style="--width:{filled:.2f}%"></i>'
    return f'<span class="bar" style="--width:{width:.2f}%">{inner}</span>'


# Tensors


def _tensors(tensors: Sequence[TensorReport], colours: Mapping[str, str]) -> str:
    most = max((t.source_bytes for t in tensors), default=0)
    highest = max((_error(t.snr_db) for t in tensors if t.snr_db is not None), default=0.0)
    lossy = any(t.sparsity is not None for t in tensors)
    head = "".join(
        f'<th{" data-number" if number else ""} class="{"" if number else "text"}{" wide" if bar else ""}">'
        f'<button type="button">{name}</button></th>'
        for name, number, bar in _COLUMNS[: None if lossy else _WITHOUT_ERRORS]
    )
    sorts = "".join(f'<option value="{value}">{what}</option>' for what, value in _SORTS[: None if lossy else -1])
    tools = (
        '<div class="tools" hidden><input type="search" placeholder="Part of a name" aria-label="Part of a name">'
        f'<select aria-label="Order">{sorts}</select><output></output></div>'
    )
    legend = "Bytes: a bar as long as before, filled as far as after."
    if lossy:
        legend += " Error: root mean square, as a share of the original weights. Worst: the largest error of a weight."
    if len(tensors) > MAX_ROWS:
        legend += f" The {MAX_ROWS:,} largest of {len(tensors):,} tensors; a report that ends in .json has all."
        tensors = sorted(tensors, key=lambda t: -t.source_bytes)[:MAX_ROWS]
    rows = "\n".join(_row(t, most, highest if lossy else None, colours[t.label]) for t in tensors)
    return _section("Tensors", f'<p class="faint">{legend}</p>{tools}' + _sheet(head, rows, ' class="rows"'))


def _row(t: TensorReport, most: int, highest: float | None, colour: str) -> str:
    """Return the row of a tensor. highest: the error of the longest bar, or None for a row without errors."""
    shape = " × ".join(map(str, t.shape)) or "scalar"
    why = f'<span class="why">{_shown(t.reason)}</span>' if t.reason else ""
    sizes = readable(t.stored_bytes)
    if t.source_bytes != t.stored_bytes:
        sizes = f"{readable(t.source_bytes)} &rarr; {sizes}"
    cells = (
        _cell(_shown(t.name), "text name"),
        _cell(shape, value=math.prod(t.shape)),
        _cell(_shown(t.label) + why, "text"),
        _cell(sizes + _bar(t.source_bytes, t.stored_bytes, most, colour), "wide", "bytes", t.stored_bytes),
        *([] if highest is None else _errors(t, highest)),
    )
    return f"<tr>{''.join(cells)}</tr>"


def _errors(t: TensorReport, highest: float) -> list[str]:
    error = None if t.snr_db is None else _error(t.snr_db)
    bar = f'<span class="bar error" style="--width:{100 * error / highest:.2f}%"></span>' if error else ""
    return [
        _cell() if error is None else _cell(_percent(error) + bar, "wide", "error", error),
        _cell() if t.snr_db is None else _cell(_decibels(t.snr_db), "", "SNR", min(t.snr_db, 1e9)),
        _cell() if t.sparsity is None else _cell(f"{100 * t.sparsity:.1f} %", "", "zeros", t.sparsity),
        _cell() if t.cosine is None else _cell(f"{t.cosine:.6f}", "", "cosine", t.cosine),
        _cell() if t.worst is None else _cell(f"{t.worst:#.3g}", "", "worst", t.worst),
    ]


def _cell(content: str = "", kind: str = "", label: str = "", value: object = "") -> str:
    """Return a cell of `content`, which is safe already. label: where there is no head; value: it is sorted by that."""
    words = {"class": kind, "data-label": label, "data-value": str(value)}
    said = "".join(f' {key}="{word}"' for key, word in words.items() if word)
    return f"<td{said}>{content}</td>"


# Settings


def _settings(report: Figures) -> str:
    asked = _tables(report.recipe) or '<p class="faint">The defaults of this version.</p>'
    every = f"<details><summary>with all defaults</summary>{_tables(report.settings)}</details>"
    return _section("Settings", asked + (every if report.settings else ""))


def _tables(table: Mapping[str, Any]) -> str:
    """Return what is said for all tensors, then tables that are about some."""
    plain = {key: value for key, value in table.items() if key not in _TABLES}
    found = _pairs(plain) if plain else ""
    for rule in table.get("rule", ()):
        found += f"<h3>{_shown(str(rule['match']))}</h3>" + _pairs({k: v for k, v in rule.items() if k != "match"})
    for removal in table.get("remove_units", ()):
        found += "<h3>removed units</h3>" + _pairs(removal)
    return found


def _pairs(table: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<div><dt>{_shown(str(key))}</dt><dd>{_shown(_word(value))}</dd></div>" for key, value in table.items()
    )
    return f'<dl class="pairs">{rows}</dl>'


def _word(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_word, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
