"""What the command line of `compress` takes, in words; what it means is in `quantrim.model.compress`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import words
from .program import JSON_HELP, THREADS_HELP, one_of

ROUNDING, PRUNING, TENSORS, OUTPUT, RUNNING = "Rounding", "Pruning", "Which tensors", "Output", "Running"
WIDTH = 18  # of the column of values in the help


def _option(panel: str, help: str, *names: str, metavar: str | None = None, values: Sequence[str] = ()) -> Any:
    """An option. values: words that a shell completes; the help lists them where no metavar stands in their place."""
    return typer.Option(
        *names,
        metavar=metavar or (_broken("|".join(values)) if values else None),
        help=help,
        show_default=False,
        rich_help_panel=panel,
        **one_of(values),
    )


def _broken(choices: str) -> str:
    """Choices on lines of WIDTH, which rich would break within a word.

    >>> _broken("transformers|vllm|bitsandbytes|any")
    'transformers|vllm|\\nbitsandbytes|any'
    """
    lines = [""]
    for word in choices.replace("|", "| ").split():
        if lines[-1] and len(lines[-1]) + len(word) > WIDTH:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


# Rounding

Bits = Annotated[
    str | None,
    _option(
        ROUNDING,
        "Bits of a weight: 4 by default. none: no rounding, which is the default with --prune or --threshold.",
        metavar="2..8|none",
    ),
]
GroupSize = Annotated[
    str | None,
    _option(
        ROUNDING,
        "Neighbours in a row that share a scale: 32 by default, all (channel) at 8 bits, 64 for codebooks. Fewer are "
        "closer and larger. tensor, one scale for all, goes with --codebook and --clusters.",
        metavar="N|channel|tensor",
    ),
]
Codebook = Annotated[
    str | None,
    _option(
        ROUNDING,
        f"In place of --bits: {', '.join(words.CODEBOOKS)}, or 2 to 256 ascending values. nf4 and fp4 are those of "
        "bitsandbytes; only quantrim reads the others.",
        metavar="NAME|A,B,..",
        values=words.CODEBOOKS,
    ),
]
Clusters = Annotated[
    int | None,
    _option(
        ROUNDING,
        "In place of --bits: K values, 2..256, that the weights of a tensor share. Only quantrim reads them.",
        metavar="K",
    ),
]
Recognize = Annotated[
    bool | None,
    _option(
        ROUNDING,
        "Pack weights that were rounded before, and stored as floats, without any change; the other options are for "
        "the rest. Only quantrim reads them.",
        "--recognize",
    ),
]
Symmetric = Annotated[
    bool | None,
    _option(
        ROUNDING,
        "Codes around zero (default); or around a zero point that each group has, closer where its weights lie to one "
        "side of zero.",
        "--symmetric/--asymmetric",
    ),
]
Scale = Annotated[
    str | None,
    _option(
        ROUNDING,
        "What a group's scale follows: the largest weight (absmax: default at 8 bits and with zero points), the least "
        "error (mse: default below 8 bits), powers of two. Or a number X for all: w becomes round(w / X) * X.",
        metavar=_broken("|".join((*words.SCALE_RULES, "X"))),
        values=words.SCALE_RULES,
    ),
]
ScaleDtype = Annotated[
    str | None,
    _option(
        ROUNDING,
        "How scales are stored: by default bfloat16 for bfloat16 weights, float32 in layouts of bitsandbytes, else "
        "float16.",
        values=words.SCALE_DTYPES,
    ),
]

# Pruning

Prune = Annotated[
    str | None,
    _option(
        PRUNING,
        "Zero this share of each tensor: 0.5 is half. With N:M, such as 2:4, N of each M neighbours in a row stay.",
        metavar="0..1|N:M",
    ),
]
PruneScore = Annotated[
    str | None,
    _option(
        PRUNING,
        "What goes first is what scores lowest: by magnitude (default) or at random; l1, l2 with --prune-pattern; "
        "the others with --prune-data.",
        values=words.SCORES,
    ),
]
PruneData = Annotated[
    Path | None,
    _option(
        PRUNING,
        "A checkpoint that has, under the names of the weights, the norms of their inputs (wanda), gradients (taylor), "
        "squared gradients (fisher), the Hessian's diagonal (obd) or scores (given).",
        metavar="FILE",
    ),
]
PrunePattern = Annotated[
    str | None,
    _option(
        PRUNING,
        "Zero whole rows, columns, or blocks of R x C weights, such as 4x1.",
        metavar="row|column|RxC",
    ),
]
PruneScope = Annotated[
    str | None,
    _option(PRUNING, "The share is of each tensor (default), or of all together.", values=words.SCOPES),
]
Threshold = Annotated[
    float | None,
    _option(PRUNING, "In place of --prune: zero weights of a magnitude below T.", metavar="T"),
]
Strict = Annotated[
    bool | None,
    _option(PRUNING, "An error, not a note, where a tensor cannot be pruned in the pattern.", "--strict"),
]

# Which tensors

Include = Annotated[
    list[str] | None,
    _option(
        TENSORS,
        "Compress only tensors of such names, also what only quantrim opens then. A GLOB must match the whole name, "
        ".weight and all; put it in quotes: '*.mlp.*.weight'. May be repeated, like the next two.",
        metavar="GLOB",
    ),
]
Exclude = Annotated[list[str] | None, _option(TENSORS, "Copy tensors of such names as they are.", metavar="GLOB")]
Drop = Annotated[list[str] | None, _option(TENSORS, "Leave tensors of such names out.", metavar="GLOB")]
MinElements = Annotated[int | None, _option(TENSORS, "Copy tensors of fewer weights: 4096 by default.", metavar="N")]
Recipe = Annotated[
    Path | None,
    _option(
        TENSORS,
        "Settings for each tensor, as above, in place of the options. The keys are the options' names with underscores "
        "(group_size), reader for --for, keep and drop; README.md lists them.",
        metavar="FILE.toml",
    ),
]

# Output

For = Annotated[
    str | None,
    _option(
        OUTPUT,
        "Who must open it. By default transformers and vllm both, or, of a single file, any: the smallest, for "
        "quantrim alone.",
        "--for",
        values=words.READERS,
    ),
]
Simulate = Annotated[
    bool | None,
    _option(
        OUTPUT,
        "Store what rounding and pruning make of the weights as floats, under the names and dtypes of SRC: nothing is "
        "smaller, and any program can measure the loss.",
        "--simulate",
    ),
]
Dtype = Annotated[
    str | None,
    _option(OUTPUT, "What float32 and float64 tensors become that are not rounded.", values=words.NARROW_FLOATS),
]
Storage = Annotated[
    str | None,
    _option(
        OUTPUT,
        "Whether zeros are left out, which only quantrim reads: sparse does so, dense never; auto (default) where "
        "weights are pruned and rounded, no other reader must open them, and it saves a quarter.",
        values=words.STORAGES,
    ),
]
MaxShardSize = Annotated[
    str | None,
    _option(OUTPUT, "Of a folder: no file larger than this, such as 2GB, 500MiB, or bytes.", metavar="SIZE"),
]
Lossless = Annotated[
    bool,
    _option(OUTPUT, "Change no weight: pack the bytes closer, until quantrim restore.", "--lossless"),
]
Report = Annotated[
    Path | None,
    _option(OUTPUT, "Write what became of each tensor: .html, .json or .md.", metavar="FILE"),
]

# Running

DryRun = Annotated[bool, _option(RUNNING, "Show the plan and the size; write nothing.", "--dry-run")]
Overwrite = Annotated[bool, _option(RUNNING, "Replace DST, and the report, where they exist.", "--overwrite")]
Threads = Annotated[int | None, _option(RUNNING, THREADS_HELP, metavar="N")]
Json = Annotated[bool, _option(RUNNING, JSON_HELP, "--json")]
