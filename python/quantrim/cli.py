"""The command line: words in, a call, a table out. What each command does is in `commands`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from . import words
from .commands import compress_options as options
from .commands import outcome, terminal
from .commands.program import MODEL, Json, Source, Target, Threads, app, one_of


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
@options.with_table
def compress(
    source: Source,
    target: Target,
    recipe: options.Recipe = None,
    lossless: options.Lossless = False,
    report: options.Report = None,
    dry_run: options.DryRun = False,
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
    json: options.Json = False,
    **said: Any,
) -> None:
    """Make a checkpoint smaller: round weights to few bits, prune them, or both.

    Of a model folder, the linear layers that transformers and vLLM open
    compressed are rounded to 4 bits; the rest is copied, and the closing lines
    say why and what would shrink it. Of a single file, or with --for any, all
    weights of two dimensions and more are rounded, which is the smallest. DST
    appears whole or not at all, and memory stays small whatever the size of the
    model.

    A model folder becomes a folder of safetensors. A file may be .safetensors,
    .npz, .npy, PyTorch's .pt, .pth, .bin or .ckpt (nothing in it is run), or
    Keras' .keras or .h5. It becomes what DST ends in: .safetensors, .npz, .npy;
    or, for --simulate and --prune, a copy of a Keras file with other weights.

    Examples:
      # linear layers to 4 bits, for transformers and vLLM
      quantrim compress llama/ small/
      # twice as large, and much closer
      quantrim compress llama/ small/ --bits 8
      # NF4, which transformers opens with bitsandbytes
      quantrim compress llama/ small/ --for bitsandbytes
      # the smallest, embeddings and all, for quantrim alone
      quantrim compress llama/ small/ --for any
      # what 3 bits would cost: rounded weights, as floats for any program
      quantrim compress llama/ trial/ --bits 3 --simulate
      # two of each four weights become zeros, the others 4 bits
      quantrim compress llama/ small/ --prune 2:4 --bits 4
      # settings for each tensor, from a file as below
      quantrim compress llama/ small/ --recipe recipe.toml
      # a state dict of PyTorch, rounded, for numpy
      quantrim compress model.pth trial.npz --simulate
      # what would become of each tensor, and the size
      quantrim compress llama/ small/ --dry-run

    Who opens the result:
      transformers, vLLM  model folders at 4 or 8 bits, as by default
      transformers        model folders at other bits; --for bitsandbytes
      any program         --simulate; --prune without --bits
      quantrim            all else: single files, --for any, --include,
                          --clusters, --recognize, --storage sparse, --lossless,
                          --codebook (nf4 and fp4 aside)
    Of what only quantrim opens, quantrim decompress makes floats for any program.

    A recipe; the first rule that matches a tensor's name counts:
      bits = 4
      group_size = 32
      [\\[rule]]
      match = "lm_head.*"
      bits = 8
    """
    from .commands import compress as command

    asked = options.asked(said)
    if recipe is not None:
        asked["recipe"] = recipe
    with command.threads(threads):
        if lossless:
            from .commands import lossless as planes

            planes.run(source, target, asked, report=report, overwrite=overwrite, dry_run=dry_run, as_json=json)
        elif dry_run:
            command.dry_run(source, target, asked, report=report, overwrite=overwrite, as_json=json)
        else:
            command.run(source, target, asked, report=report, overwrite=overwrite, as_json=json)


@app.command()
def decompress(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A compressed file or model folder.", show_default=False)
    ],
    target: Target,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="|".join(words.FLOATS), help="Of all floats.", show_default=False, **one_of(words.FLOATS)),
    ] = None,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST where it exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what each tensor becomes; write nothing.")] = False,
    json: Json = False,
) -> None:
    """Make floats of a compressed checkpoint again, for any reader.

    Reads what compress writes, compressed-tensors (integers, FP8, NVFP4, MX),
    FP8 with weight_scale_inv, and bitsandbytes (NF4, FP4, LLM.int8). Weights get
    the values that their readers compute, in the dtype of config.json if it has
    room for them; --dtype rounds to another and says what that cost. What was
    lost in compressing stays lost. What cannot be decoded is an error; DST
    appears whole or not at all.

    Examples:
      quantrim decompress llama-int4/ llama/
      quantrim decompress small.safetensors floats.safetensors --dtype float32
      quantrim decompress deepseek-fp8/ deepseek-bf16/ --dtype bfloat16
      quantrim decompress llama-nf4/ anywhere/ --dry-run
    """
    from .commands import compress as command
    from .commands import decompress as floats

    act = floats.dry_run if dry_run else floats.run
    with command.threads(threads):
        act(source, target, dtype=dtype, overwrite=overwrite, as_json=json)


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="What compress --lossless wrote.", show_default=False)],
    target: Target,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST where it exists.")] = False,
    json: Json = False,
) -> None:
    """Undo compress --lossless: the original files again, byte for byte.

    Every chunk is checked by its CRC-32 and every file by its SHA-256; where one
    is wrong, nothing is written. DST appears whole or not at all.

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
        typer.Option("--stats/--no-stats", help="Read the weights (default), or headers only.", show_default=False),
    ] = True,
    json: Json = False,
) -> None:
    """Show what is in a checkpoint: tensors, shapes, bytes, sparsity, range and distribution.

    Works on float and on compressed checkpoints, whose tensors are decoded. The
    histogram spans at most four standard deviations to either side of the mean.

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
        bool, typer.Option("--dry-run", help="Show the files and their shares of the L1 norm; write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Cut a checkpoint into several files with an index, as transformers and vLLM load it.

    Tensors stay whole, byte for byte, and config and tokenizer are copied. By
    layers, tensors of no layer (embeddings, head) are the first file. DST appears
    whole or not at all, and memory stays small whatever the size of the model.

    Examples:
      quantrim split model.safetensors shards/ --max-size 2GB
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
        typer.Option(
            metavar="GLOB", help="Leave out tensors of such names, in quotes; may be repeated.", show_default=False
        ),
    ] = None,
    drop_lowest: Annotated[
        int, typer.Option(metavar="N", help="Leave out the N layers with the least weight.", show_default=False)
    ] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST where it exists.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show each layer's share of the L1 norm, and what goes; write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Put the files of a checkpoint together into one, and leave tensors out.

    What is kept is kept byte for byte. DST is a .safetensors file, or a folder that
    also gets config and tokenizer. The weight of a layer is its sum of |w|; names and
    config.json stay as they are, so a model that lost layers needs a config of its own.

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

    The environment chooses others than the best: QUANTRIM_ISA the instruction
    set, QUANTRIM_THREADS how many threads.

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

    A network that reads handwritten digits is pruned, rounded and stored sparse;
    each variant is saved and read again. Accuracy is that on 360 images it never saw. Takes a few seconds.

    Examples:
      quantrim demo
      quantrim demo --plot ladder.png
    """
    from .commands import demo as command

    command.run(as_json=json, plot=plot, overwrite=overwrite)


if __name__ == "__main__":
    main()
