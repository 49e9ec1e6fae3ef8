"""The command line: words in, a call, a table out. What each command does is in `commands`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from .commands import outcome, terminal
from .commands.program import MODEL, Json, Source, Target, Threads, app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit; arguments: sys.argv[1:] by default."""
    terminal.open_standard_streams()
    with outcome.signals_raise() as received:
        try:
            app(args=arguments, prog_name="quantrim")
        except SystemExit as end:  # typer takes every signal for Ctrl-C while it reads the command line
            if received:
                outcome.leave(128 + received[0] if end.code == outcome.INTERRUPTED else end.code)
            raise


@app.command()
def compress(
    source: Source,
    target: Target,
    bits: Annotated[
        str | None,
        typer.Option(
            metavar="2..8|none", help="Bits of a weight; 4 by default. none: only --prune.", show_default=False
        ),
    ] = None,
    group_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|channel|tensor",
            help="Weights of a row that share a scale; 128 by default, the row (channel) at 8 bits, 64 for codebooks.",
            show_default=False,
        ),
    ] = None,
    codebook: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|A,B,..",
            help="In place of --bits: nf4, fp4, mxfp4, mxint8, binary, ternary, or 2 to 256 ascending values.",
            show_default=False,
        ),
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option(metavar="K", help="In place of --bits: K values that the weights share.", show_default=False),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="sparse leaves zeros out (only quantrim reads that), dense never; auto where it saves a quarter.",
            show_default=False,
        ),
    ] = None,
    recognize: Annotated[
        bool | None,
        typer.Option("--recognize", help="Pack what lies on a grid already without any change.", show_default=False),
    ] = None,
    symmetric: Annotated[
        bool | None,
        typer.Option("--symmetric/--asymmetric", help="Codes around zero, or with a zero point.", show_default=False),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="RULE|X",
            help="absmax, mse (slower, closer), power_of_two, or X: round(w / X) * X everywhere.",
            show_default=False,
        ),
    ] = None,
    scale_dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help="float16, bfloat16 or float32.", show_default=False)
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(metavar="0..1|N:M", help="Zero this share of each tensor, or all but N of M.", show_default=False),
    ] = None,
    prune_score: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="The lowest go: magnitude (default), random; with --prune-data wanda, taylor, fisher, obd, given.",
            show_default=False,
        ),
    ] = None,
    prune_data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A checkpoint with input norms, gradients, ... under the names of the weights.",
            show_default=False,
        ),
    ] = None,
    prune_pattern: Annotated[
        str | None,
        typer.Option(metavar="row|column|RxC", help="Zero whole rows, columns or R x C blocks.", show_default=False),
    ] = None,
    prune_scope: Annotated[
        str | None,
        typer.Option(
            metavar="tensor|global", help="A budget for each tensor (default), or one for all.", show_default=False
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="T", help="Zero what is smaller than T, in place of --prune.", show_default=False),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Compress only tensors of these names.", show_default=False),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Copy tensors of these names as they are.", show_default=False),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave tensors of these names out.", show_default=False),
    ] = None,
    min_elements: Annotated[
        int | None,
        typer.Option(metavar="N", help="Copy matrices of fewer weights; 4096 by default.", show_default=False),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Settings per tensor, in place of options.", show_default=False),
    ] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Keep every bit: byte planes, which quantrim restore undoes.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a report: .html, .json or .md.", show_default=False),
    ] = None,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST where it exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and the size; write nothing.")] = False,
    json: Json = False,
) -> None:
    """Make a checkpoint smaller; vLLM and transformers load what it writes with --bits.

    Matrices are rounded to few bits; norms, biases and other small tensors are
    copied. DST appears whole or not at all, and memory stays small whatever the
    size of the model.

    \b
    Examples:
      quantrim compress model.safetensors small.safetensors
      quantrim compress llama/ llama-int4/ --bits 4 --group-size 32 --scale mse
      quantrim compress llama/ llama-2of4/ --prune 2:4 --exclude 'lm_head*'
      quantrim compress llama/ llama-half/ --bits none --prune 0.5
      quantrim compress llama/ llama-wanda/ --prune 0.5 --prune-score wanda --prune-data norms.safetensors
      quantrim compress llama/ llama-70/ --bits none --prune 0.7 --prune-scope global
      quantrim compress llama/ llama-sparse/ --prune 0.7
      quantrim compress llama/ llama-nf4/ --codebook nf4
      quantrim compress llama/ llama-int3/ --bits 3 --report report.html
      quantrim compress llama/ anywhere/ --dry-run
      quantrim compress llama/ llama-packed/ --lossless

    \b
    A recipe gives tensors settings of their own; the first rule that matches counts:
      bits = 4
      group_size = 32
      [\\[rule]]
      match = "lm_head.*"
      bits = 8
    """
    from .commands import compress as command

    options = command.Options(
        bits=bits,
        group_size=group_size,
        codebook=codebook,
        clusters=clusters,
        storage=storage,
        recognize=recognize,
        symmetric=symmetric,
        scale=scale,
        scale_dtype=scale_dtype,
        prune=prune,
        prune_score=prune_score,
        prune_data=prune_data,
        prune_pattern=prune_pattern,
        prune_scope=prune_scope,
        threshold=threshold,
        include=include,
        exclude=exclude,
        drop=drop,
        min_elements=min_elements,
        recipe=recipe,
    )
    with command.threads(threads):
        if lossless:
            from .commands import lossless as planes

            planes.run(
                source, target, options, report=report, overwrite=overwrite, dry_run=dry_run, as_json=json
            )
        elif dry_run:
            command.dry_run(source, target, options, overwrite=overwrite, as_json=json)
        else:
            command.run(source, target, options, report=report, overwrite=overwrite, as_json=json)


@app.command()
def restore(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="What compress --lossless wrote.", show_default=False)
    ],
    target: Target,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST where it exists.")] = False,
    json: Json = False,
) -> None:
    """Undo compress --lossless: the original files again, byte for byte.

    Every chunk is checked by its CRC-32 and every file by its SHA-256; where one
    is wrong, nothing is written. DST appears whole or not at all.

    \b
    Examples:
      quantrim restore llama-packed/ llama/
      quantrim restore packed.safetensors model.safetensors
    """
    from .commands import compress as command
    from .commands import lossless

    with command.threads(threads):
        lossless.restore(source, target, overwrite=overwrite, as_json=json)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE", help=MODEL, show_default=False)],
    stats: Annotated[
        bool,
        typer.Option("--stats/--no-stats", help="Read the weights, or headers only.", show_default=False),
    ] = True,
    json: Json = False,
) -> None:
    """Show what is in a checkpoint: tensors, shapes, bytes, sparsity, range and distribution.

    Works on float and on compressed checkpoints, whose tensors are decoded. The
    histogram spans at most four standard deviations to either side of the mean.

    \b
    Examples:
      quantrim inspect model.safetensors
      quantrim inspect llama-int4/ --no-stats
      quantrim inspect model.safetensors --json | jq '.tensors[].sparsity'
    """
    from .commands import inspect as command

    command.run(path, stats=stats, as_json=json)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The original: a file or a model folder.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is measured against it.", show_default=False)],
    json: Json = False,
) -> None:
    """Measure how far B is from A, tensor by tensor: SNR, cosine, worst error.

    Both may be float or compressed. SNR is 10 log10 of signal over noise: about
    6 dB for each bit. Exit code 2 where a tensor is missing, extra, or of
    another shape.

    \b
    Examples:
      quantrim compare model.safetensors small.safetensors
      quantrim compare llama/ llama-int4/ --json > errors.json
    """
    from .commands import compare as command

    command.run(a, b, as_json=json)


@app.command()
def split(
    source: Source,
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.", show_default=False)],
    max_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="No file larger than this: 5GB, 500MiB, bytes.", show_default=False),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(metavar="N", help="Layers in each file, in place of a size.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST where it exists.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and how much weight is in each; write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Cut a checkpoint into several files with an index, as transformers and vLLM load it.

    Tensors stay whole, byte for byte, and config and tokenizer are copied. By
    layers, tensors of no layer (embeddings, head) are the first file. DST appears
    whole or not at all, and memory stays small whatever the size of the model.

    \b
    Examples:
      quantrim split model.safetensors parts/ --max-size 2GB
      quantrim split llama/ stages/ --layers 8
      quantrim split llama/ anywhere/ --layers 1 --dry-run
    """
    from .commands import split as command

    act = command.dry_run if dry_run else command.run
    act(source, target, max_size=max_size, layers=layers, overwrite=overwrite, as_json=json)


@app.command()
def merge(
    source: Source,
    target: Target,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave out tensors of these names.", show_default=False),
    ] = None,
    drop_lowest: Annotated[
        int, typer.Option(metavar="N", help="Leave out the N layers with the least weight.", show_default=False)
    ] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST where it exists.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show how much weight is in each layer, and what goes; write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Put the files of a checkpoint together into one, and leave parts of it out.

    What is kept is kept byte for byte. DST is a .safetensors file, or a folder that
    also gets config and tokenizer. The weight of a layer is its sum of |w|; names and
    config.json stay as they are, so a model that lost layers needs a config of its own.

    \b
    Examples:
      quantrim merge llama/ llama.safetensors
      quantrim merge llama/ llama-text/ --drop 'vision_tower.*'
      quantrim merge llama/ llama-short/ --drop-lowest 2 --dry-run
    """
    from .commands import merge as command

    act = command.dry_run if dry_run else command.run
    act(source, target, drop=drop, drop_lowest=drop_lowest, overwrite=overwrite, as_json=json)


@app.command()
def info(json: Json = False) -> None:
    """Show the version, the instruction sets that were built and found, threads, and file formats.

    \b
    Examples:
      quantrim info
      QUANTRIM_ISA=reference quantrim info --json
    """
    from .commands import info as command

    command.run(as_json=json)


@app.command()
def demo(
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw accuracy against bytes; needs matplotlib.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture where it exists.")] = False,
    json: Json = False,
) -> None:
    """Make a real small model that ships with quantrim smaller in every way, and see what it costs in accuracy.

    A network that reads handwritten digits is pruned, rounded and stored without
    its zeros; each form is stored and read again. Accuracy is that on 360 images
    it never saw. Takes a few seconds.

    \b
    Examples:
      quantrim demo
      quantrim demo --plot ladder.png
    """
    from .commands import demo as command

    command.run(as_json=json, plot=plot, overwrite=overwrite)


if __name__ == "__main__":
    main()
