"""Every option of `compress` and `plan`, once: the table that signatures, recipes, `--help` and the documentation read.

It is below `model`, and imports nothing that takes time, because help and completion wait for no kernels. What the
options of a table mean together is in `model/recipe/resolve.py`.

`python -m quantrim.options` prints the table as Markdown, and with the word `docstring` the section of options in the
docstring of `compress`. That section and `docs/reference/options.md` are written down, so that editors and people find
them without running anything; a test holds them to the table.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from . import option_values as kind
from . import words

ROUNDING, PRUNING, TENSORS, OUTPUT = "Rounding", "Pruning", "Which tensors", "Output"


class Given(NamedTuple):
    """An option that asks for something, with one of these values where there are any."""

    name: str
    values: tuple[Any, ...] = ()

    def holds(self, values: Mapping[str, Any]) -> bool:
        value = values.get(self.name)
        return is_on(self.name, value) and (not self.values or value in self.values)


class Needs(NamedTuple):
    """Options that some values of an option need: one of `others`. why: how an error ends."""

    when: Callable[[Any], bool]
    others: tuple[Given, ...]
    why: str = ""


class Excludes(NamedTuple):
    """Options that some values of an option exclude. why: how an error ends."""

    others: tuple[Given, ...]
    why: str = ""
    when: Callable[[Any], bool] = lambda value: True


@dataclass(frozen=True)
class Option:
    """One option.

    name: of the argument and the key. type: as in signatures. check: (name, value) -> the value as it is kept;
    TypeError or ValueError where it is none. help: a sentence or two, in which {name} is an option and "word" a value;
    more: what only Python's documentation says, too. default: what is not asked for.

    key: where a recipe may have it: "rule" (and at the top), "top" or "" for nowhere. argument: whether `compress` has
    it. of: it says nothing unless one of these holds; needs: what it cannot do without; excludes: what it cannot be
    given with.

    heading, flags, metavar, values: in the help of the command line, which has it if there are flags; values are
    completed. word: what typer makes of the text; text: what makes a value of that.
    """

    name: str
    type: str
    check: Callable[[str, Any], Any]
    help: str
    more: str = ""
    default: Any = None
    key: str = "rule"
    argument: bool = True
    of: tuple[Given, ...] = ()
    needs: tuple[Needs, ...] = ()
    excludes: tuple[Excludes, ...] = ()
    heading: str = ""
    flags: tuple[str, ...] = ()
    metavar: str = ""
    values: tuple[str, ...] = ()
    word: Any = str
    text: Callable[[Any], Any] = lambda word: word

    def described(self, naming: Callable[[str], str], none: str, more: bool = True) -> str:
        """Return the help, in which options are called as `naming` has it."""
        names = {name: naming(name) for name in (*ARGUMENTS, *OF_RULES)}
        return f"{self.help} {self.more if more else ''}".strip().format_map({**names, "none": none})

    @property
    def optional(self) -> bool:
        """Tell whether None is one of its values."""
        return "None" in self.type


# The table, in the order of signatures and help

_BITS, _CODEBOOK, _CLUSTERS = Given("bits"), Given("codebook"), Given("clusters")
_PRUNE, _SHRINK = (Given("prune"),), (Given("shrink_l1"), Given("shrink_l2"))
_ONE_GRID, _ONE_WAY = ": each chooses the grid", ": each says what is pruned"
_DENSE = Excludes((Given("storage", ("sparse",)),), ", whose codes stay dense")
_TABLE = (
    Option(
        "keep", "bool", kind.flag, "Copy the tensor as it is.", default=False, argument=False,
    ),
    Option(
        "bits", "int | Literal['auto'] | None", kind.integer(2, 8),
        "Bits of a weight: 4 by default. {none}: no rounding, which is the default with {prune} or {threshold}.",
        more="Then weights are zeroed and keep their dtype.",
        default="auto",
        excludes=(Excludes((Given("codebook"), Given("clusters")), _ONE_GRID),),
        heading=ROUNDING, flags=("--bits",), metavar="2..8|none", text=kind.number_of,
    ),
    Option(
        "group_size", "int | Literal['channel', 'tensor'] | None", kind.group_size,
        'Neighbours in a row that share a scale: 32 by default, all ("channel") at 8 bits, 64 for codebooks. Fewer are '
        'closer and larger. "tensor", one scale for all, goes with {codebook} and {clusters}.',
        more="Where it does not divide the columns, the largest of 64, 32, 16 that does, else the whole row.",
        of=(_BITS, _CODEBOOK, _CLUSTERS),
        needs=(Needs(lambda value: value == "tensor", (_CODEBOOK, _CLUSTERS, Given("recognize"))),),
        heading=ROUNDING, flags=("--group-size",), metavar="N|channel|tensor", text=kind.number_of,
    ),
    Option(
        "codebook", "CodebookName | Iterable[float] | None", kind.codebook,
        f"In place of {{bits}}: {', '.join(words.CODEBOOKS)}, or 2 to 256 ascending values. nf4 and fp4 are those of "
        "bitsandbytes; only quantrim reads the others.",
        more='As in `quantize_codebook`. "nf4" and "fp4" are stored as bitsandbytes has them, with float32 scales, '
        'where {group_size} is 32, 64, ... 4096 and divides the columns ({scale_dtype}="bfloat16" keeps them ours).',
        excludes=(Excludes((Given("clusters"),), _ONE_GRID), _DENSE),
        heading=ROUNDING, flags=("--codebook",), metavar="NAME|A,B,..", values=words.CODEBOOKS, text=kind.values_of,
    ),
    Option(
        "clusters", "int | None", kind.integer(2, 256),
        "In place of {bits}: K values, 2..256, that the weights of a tensor share. Only quantrim reads them.",
        more="As in `cluster`.",
        excludes=(_DENSE,),
        heading=ROUNDING, flags=("--clusters",), metavar="K", word=int,
    ),
    Option(
        "recognize", "bool", kind.flag,
        "Pack weights that are quantized already, though they are floats, without any change; the other options are "
        "for the rest. Only quantrim reads them.",
        more="Each tensor is scanned first: one on a grid, or of at most 256 values, is neither pruned nor rounded.",
        default=False,
        heading=ROUNDING, flags=("--recognize",), word=bool,
    ),
    Option(
        "symmetric", "bool", kind.flag,
        "Codes around zero (default); or around a zero point that each group has, closer where its weights are mostly "
        "on one side of zero.",
        default=True, of=(_BITS,),
        heading=ROUNDING, flags=("--symmetric/--asymmetric",), word=bool,
    ),
    Option(
        "scale", "ScaleRule | float | None", kind.scale,
        "What a group's scale follows: the largest weight (absmax: default at 8 bits and with zero points), the least "
        "error (mse: default below 8 bits), powers of two. Or a number X for all: w becomes round(w / X) * X.",
        of=(_BITS,),
        heading=ROUNDING, flags=("--scale",), metavar="|".join((*words.SCALE_RULES, "X")), values=words.SCALE_RULES,
        text=kind.fraction_of,
    ),
    Option(
        "scale_dtype", "Float | None", kind.one_of(words.SCALE_DTYPES),
        "How scales are stored: by default bfloat16 for bfloat16 weights, float32 in layouts of bitsandbytes, else "
        "float16.",
        of=(_BITS, _CODEBOOK),
        heading=ROUNDING, flags=("--scale-dtype",), values=words.SCALE_DTYPES,
    ),
    Option(
        "rounding", "Rounding", kind.one_of(words.ROUNDINGS),
        'Ties to "even" (default) or "away" from zero, all down ("floor"), or by chance ("stochastic").',
        default="even", of=(_BITS,),
    ),
    Option(
        "prune", "float | str | None", kind.prune,
        "Zero this share of each tensor: 0.5 is half. With N:M, such as 2:4, N of each M neighbours in a row stay.",
        excludes=(
            Excludes((Given("threshold"), *_SHRINK), _ONE_WAY),
            Excludes(
                (Given("prune_axis"), Given("prune_pattern"), Given("prune_scope")), ", but with a fraction",
                lambda value: isinstance(value, str),
            ),
        ),
        heading=PRUNING, flags=("--prune",), metavar="0..1|N:M", text=kind.fraction_of,
    ),
    Option(
        "prune_score", "Score", kind.one_of(words.SCORES),
        "What goes first is what scores lowest: by magnitude (default) or at random; l1, l2 with {prune_pattern}; "
        "the others with {prune_data}.",
        default="magnitude", of=_PRUNE,
        needs=(
            Needs(words.NORMS.__contains__, (Given("prune_pattern"),), ': "row", "column" or (rows, cols)'),
            Needs(words.DATA_SCORES.__contains__, (Given("prune_data"),), ", a checkpoint that has what it needs"),
        ),
        heading=PRUNING, flags=("--prune-score",), values=words.SCORES,
    ),
    Option(
        "prune_data", "str | os.PathLike[str] | None", kind.path,
        "A checkpoint that has, under the names of the weights, the norms of their inputs (wanda), gradients (taylor), "
        "squared gradients (fisher), the Hessian's diagonal (obd) or scores (given).",
        more="Norms are (cols,); the others (rows, cols); scores of whole rows or columns may be (rows,) or (cols,).",
        of=(Given("prune_score", words.DATA_SCORES),),
        heading=PRUNING, flags=("--prune-data",), metavar="FILE", word=Path,
    ),
    Option(
        "prune_pattern", "Literal['row', 'column'] | tuple[int, int] | None", kind.prune_pattern,
        "Zero whole rows, columns, or blocks of R x C weights, such as 4x1.",
        more='"row", "column" or (rows, cols): those with the lowest sums of scores.',
        of=_PRUNE,
        heading=PRUNING, flags=("--prune-pattern",), metavar="row|column|RxC", text=kind.block_of,
    ),
    Option(
        "prune_scope", "Scope", kind.one_of(words.SCOPES),
        "The share is of each tensor (default), or of all together.",
        more='"global": one exact budget for all tensors of the same {prune}, {prune_score} and {prune_pattern}.',
        default="tensor", of=_PRUNE,
        heading=PRUNING, flags=("--prune-scope",), values=words.SCOPES,
    ),
    Option(
        "prune_axis", "Literal[1] | None", kind.integer(1, 1),
        "1: the share is of each row.",
        of=_PRUNE, excludes=(Excludes((Given("prune_pattern"), Given("prune_scope"))),),
    ),
    Option(
        "seed", "int", kind.integer(0, 2**64 - 1),
        'Of {rounding}="stochastic" and {prune_score}="random": 0 by default.',
        default=0, of=(_BITS, Given("prune_score", ("random",))),
    ),
    Option(
        "threshold", "float | None", kind.number(-kind.LARGEST, kind.LARGEST),
        "In place of {prune}: zero weights of a magnitude below T.",
        excludes=(Excludes(_SHRINK, _ONE_WAY),),
        needs=(Needs(lambda value: value < 0, (Given("threshold_mode", ("signed",)),)),),
        heading=PRUNING, flags=("--threshold",), metavar="T", word=float,
    ),
    Option(
        "threshold_mode", "ThresholdMode", kind.one_of(words.THRESHOLD_MODES),
        'As `threshold` has it: "magnitude" (default), "signed": w up to T, or "soft": all others come nearer to 0.',
        default="magnitude", of=(Given("threshold"),),
    ),
    Option(
        "shrink_l1", "float", kind.number(0.0, kind.LARGEST), "In place of {prune}: the l1 penalty of `shrink`.",
        default=0.0,
    ),
    Option(
        "shrink_l2", "float", kind.number(0.0, kind.LARGEST), "In place of {prune}: the l2 penalty of `shrink`.",
        default=0.0,
    ),
    Option(
        "shrink_axis", "Literal[1] | None", kind.integer(1, 1), "1: {shrink_l1} and {shrink_l2} are of each row.",
        of=_SHRINK,
    ),
    Option(
        "strict", "bool", kind.flag, "An error, not a note, where a tensor cannot be pruned in the pattern.",
        default=False, key="top",
        heading=PRUNING, flags=("--strict",), word=bool,
    ),
    Option(
        "include", "str | Iterable[str] | None", kind.globs,
        "Compress only tensors of such names, also what only quantrim opens then. A GLOB must match the whole name, "
        ".weight and all; put it in quotes: '*.mlp.*.weight'. May be repeated, like the next two.",
        key="",
        heading=TENSORS, flags=("--include",), metavar="GLOB", word=list[str],
    ),
    Option(
        "exclude", "str | Iterable[str] | None", kind.globs, "Copy tensors of such names as they are.",
        key="",
        heading=TENSORS, flags=("--exclude",), metavar="GLOB", word=list[str],
    ),
    Option(
        "drop", "str | Iterable[str] | None", kind.globs, "Leave tensors of such names out.",
        key="",
        heading=TENSORS, flags=("--drop",), metavar="GLOB", word=list[str],
    ),
    Option(
        "min_elements", "int", kind.integer(0, 2**62), "Copy tensors of fewer weights: 4096 by default.",
        more="Those of less than two dimensions are copied, too.",
        # Smaller tensors (16 KiB in float32) hardly add to a model's size, and each compressed one costs two more names
        # in the header.
        default=4096, key="top",
        heading=TENSORS, flags=("--min-elements",), metavar="N", word=int,
    ),
    Option(
        "reader", "Reader | None", kind.one_of(words.READERS),
        "Who must open it. By default transformers and vllm both, or, of a single file, any: the smallest, for "
        "quantrim alone.",
        more='"transformers", "vllm": in the layouts of compressed-tensors, and only modules that it opens so. '
        '"bitsandbytes": NF4 or FP4, opened by transformers. "any": all weights of two dimensions and more, in layouts '
        "that may be for quantrim and `decompress` alone. The notes say what stayed as it was, and why.",
        heading=OUTPUT, flags=("--for",), values=words.READERS,
    ),
    Option(
        "simulate", "bool", kind.flag,
        "Store what rounding and pruning make of the weights as floats, under the names and dtypes of SRC: nothing is "
        "smaller, and any program can measure the loss.",
        default=False, key="top",
        heading=OUTPUT, flags=("--simulate",), word=bool,
    ),
    Option(
        "dtype", "NarrowFloat | None", kind.one_of(words.NARROW_FLOATS),
        "What float32 and float64 tensors become that are not rounded.",
        key="top",
        heading=OUTPUT, flags=("--dtype",), values=words.NARROW_FLOATS,
    ),
    Option(
        "storage", "Storage", kind.one_of(words.STORAGES),
        "Whether zeros are left out, which only quantrim reads: sparse does so, dense never; auto (default) where "
        "weights are pruned and rounded, no other reader must open them, and it saves a quarter.",
        default="auto",
        heading=OUTPUT, flags=("--storage",), values=words.STORAGES,
    ),
    Option(
        "max_shard_size", "int | str | None", kind.size,
        "Of a folder: no file larger than this, such as 2GB, 500MiB, or bytes.",
        more="Unless one tensor is.",
        key="top",
        heading=OUTPUT, flags=("--max-shard-size",), metavar="SIZE",
    ),
)  # fmt: skip
ARGUMENTS = {option.name: option for option in _TABLE if option.argument}
_DROP = Option("drop", "bool", kind.flag, "Leave the tensor out.", default=False, argument=False)
OF_RULES = {option.name: option for option in (*_TABLE, _DROP) if option.key == "rule"}  # keys of a recipe's rules
OF_TOP = {option.name: option for option in _TABLE if option.key == "top"}  # keys that only its top has
MIN_ELEMENTS = ARGUMENTS["min_elements"].default


def is_on(name: str, value: object) -> bool:
    """Tell whether a value asks for something, rather than for what happens by default."""
    return value is not None and value != OF_RULES[name].default


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options among the arguments of a call that are not as by default; None is, but for bits.

    >>> given({"source": "a", "bits": None, "prune": 0.5, "scale": None, "rounding": "even"})
    {'bits': None, 'prune': 0.5}
    """
    return {name: arguments[name] for name, option in ARGUMENTS.items() if _is_given(arguments.get(name, ...), option)}


def _is_given(value: Any, option: Option) -> bool:
    if value is ... or (value is None and option.name != "bits"):
        return False
    return type(value) is not type(option.default) or bool(value != option.default)


# Documentation


def docstring() -> str:
    """Return the section of options in the docstring of `compress`."""
    lines: list[str] = []
    for option in ARGUMENTS.values():
        text = option.described(lambda name: name, "None").replace("SRC", "the source")
        lines += textwrap.wrap(
            f"{option.name}: {text}", 120, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False
        )
    return "\n".join(lines)


def markdown() -> str:
    """Return the table of options as docs/reference/options.md has it."""
    rows = [("option", "default", "command line", "recipe", "meaning"), ("---",) * 5]
    for option in ARGUMENTS.values():
        flags = " ".join(f"`{flag}`" for flag in option.flags)
        where = {"rule": "top, rules", "top": "top"}.get(option.key, "")
        default = "" if option.default is None else f"`{option.default!r}`".replace("'", '"')
        text = option.described(lambda name: f"`{name}`", '`"none"` (`None` in Python)')
        rows.append((f"`{option.name}`", default, flags, where, text))
    for option in (OF_RULES["keep"], OF_RULES["drop"]):
        rows.append((f"`{option.name}` (flag)", "`false`", "", "top, rules", option.help))
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


if __name__ == "__main__":
    print(docstring() if sys.argv[1:] == ["docstring"] else markdown())
