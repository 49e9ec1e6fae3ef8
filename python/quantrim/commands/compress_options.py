"""What the command line of `compress` takes, in words; what it means is in `quantrim.model.compress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ROUNDING, PRUNING, TENSORS, OUTPUT = "Rounding", "Pruning", "Which tensors", "Output"

Bits = Annotated[
    str | None,
    typer.Option(
        metavar="2..8|none",
        help="Bits of a weight; 4 by default, none where only pruning is asked for.",
        show_default=False,
        rich_help_panel=ROUNDING,
    ),
]
GroupSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|channel|tensor",
        help="Weights of a row that share a scale; 128 by default, the row (channel) at 8 bits, 64 for codebooks.",
        show_default=False,
        rich_help_panel=ROUNDING,
    ),
]
Codebook = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|A,B,..",
        help="In place of --bits: nf4, fp4, mxfp4, mxint8, binary, ternary, or 2 to 256 ascending values.",
        show_default=False,
        rich_help_panel=ROUNDING,
    ),
]
Clusters = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="In place of --bits: K values that the weights share.",
        show_default=False,
        rich_help_panel=ROUNDING,
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="WORD",
        help="sparse leaves zeros out (only quantrim reads that), dense never; auto, with --for any, where it saves a "
        "quarter.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Recognize = Annotated[
    bool | None,
    typer.Option(
        "--recognize",
        help="Pack what lies on a grid already without any change.",
        show_default=False,
        rich_help_panel=ROUNDING,
    ),
]
Symmetric = Annotated[
    bool | None,
    typer.Option(
        "--symmetric/--asymmetric",
        help="Codes around zero, or with a zero point.",
        show_default=False,
        rich_help_panel=ROUNDING,
    ),
]
Scale = Annotated[
    str | None,
    typer.Option(
        metavar="RULE|X",
        help="absmax, mse (slower, closer), power_of_two, or X: round(w / X) * X everywhere.",
        show_default=False,
        rich_help_panel=ROUNDING,
    ),
]
ScaleDtype = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        help="Of the scales: float16, bfloat16 or float32.",
        show_default=False,
        rich_help_panel=ROUNDING,
    ),
]
Prune = Annotated[
    str | None,
    typer.Option(
        metavar="0..1|N:M",
        help="Zero this share of each tensor, or all but N of M.",
        show_default=False,
        rich_help_panel=PRUNING,
    ),
]
PruneScore = Annotated[
    str | None,
    typer.Option(
        metavar="SCORE",
        help="The lowest go: magnitude (default), random; with --prune-data wanda, taylor, fisher, obd, given.",
        show_default=False,
        rich_help_panel=PRUNING,
    ),
]
PruneData = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A checkpoint with input norms, gradients, ... under the names of the weights.",
        show_default=False,
        rich_help_panel=PRUNING,
    ),
]
PrunePattern = Annotated[
    str | None,
    typer.Option(
        metavar="row|column|RxC",
        help="Zero whole rows, columns or R x C blocks.",
        show_default=False,
        rich_help_panel=PRUNING,
    ),
]
PruneScope = Annotated[
    str | None,
    typer.Option(
        metavar="tensor|global",
        help="A budget for each tensor (default), or one for all.",
        show_default=False,
        rich_help_panel=PRUNING,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="Zero what is smaller than T, in place of --prune.",
        show_default=False,
        rich_help_panel=PRUNING,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Compress only tensors of these names, whether other readers open them or not.",
        show_default=False,
        rich_help_panel=TENSORS,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Copy tensors of these names as they are.", show_default=False, rich_help_panel=TENSORS
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Leave tensors of these names out.", show_default=False, rich_help_panel=TENSORS),
]
MinElements = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Copy tensors of fewer weights; 4096 by default.",
        show_default=False,
        rich_help_panel=TENSORS,
    ),
]
MaxShardSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Of a folder: bytes, or 2GB, say, that no file exceeds.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
For = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="READER",
        help="Who must open it: transformers, vllm, bitsandbytes, or any: the smallest, for quantrim alone. "
        "By default transformers and vLLM both.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        help="float16 or bfloat16 for the floats that stay.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Simulate = Annotated[
    bool | None,
    typer.Option(
        "--simulate",
        help="Store rounded and pruned values as floats, in the source's names and dtypes: any program opens them.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Strict = Annotated[
    bool | None,
    typer.Option(
        "--strict",
        help="An error, not a note, where a tensor cannot be pruned in the pattern.",
        show_default=False,
        rich_help_panel=PRUNING,
    ),
]
Recipe = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        help="Settings per tensor, in place of options.",
        show_default=False,
        rich_help_panel=TENSORS,
    ),
]
Lossless = Annotated[
    bool,
    typer.Option(
        "--lossless", help="Keep every bit: byte planes, which quantrim restore undoes.", rich_help_panel=OUTPUT
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Write a report: .html, .json or .md.", show_default=False, rich_help_panel=OUTPUT
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace DST, and the report, where they exist.", rich_help_panel=OUTPUT),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and the size; write nothing.", rich_help_panel=OUTPUT)
]
