"""Words that people type who know other programs, and what they are called here."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

_OPTIONS = {  # what is typed -> the words that say it here, the first of them an option of the command or an argument
    **dict.fromkeys(("--force", "-f", "--yes", "-y", "--replace", "--clobber"), "--overwrite"),
    **dict.fromkeys(("--bit", "-b", "--nbits", "--num-bits", "--wbits", "--w-bits", "--precision"), "--bits"),
    **dict.fromkeys(("--group", "--groupsize", "-g", "--block-size", "--blocksize", "--q-group-size"), "--group-size"),
    **dict.fromkeys(("--sparsity", "--amount", "--pruning", "--sparsity-ratio"), "--prune"),
    **dict.fromkeys(("--ignore", "--skip", "--keep"), "--exclude"),
    **dict.fromkeys(("--only", "--targets", "--match"), "--include"),
    **dict.fromkeys(("--jobs", "-j", "--num-threads", "--workers", "--nthreads", "-t"), "--threads"),
    **dict.fromkeys(("--dryrun", "-n", "--plan", "--preview"), "--dry-run"),
    **dict.fromkeys(("--config", "-c", "--rules"), "--recipe"),
    **dict.fromkeys(("--sym", "--symmetrical"), "--symmetric"),
    **dict.fromkeys(("--asym", "--zero-point"), "--asymmetric"),
    **dict.fromkeys(("--nf4", "--fp4", "--mxfp4"), "--codebook {typed}"),
    **dict.fromkeys(("--kmeans", "--k", "-k"), "--clusters"),
    **dict.fromkeys(("--shard-size", "--split-size"), "--max-shard-size"),
    "--format": "--json",
    **dict.fromkeys(("--output", "-o", "--out", "--destination", "--target", "--save-dir"), "DST"),
    **dict.fromkeys(("--input", "-i", "--model", "-m", "--source"), "SRC"),
}
_ALIKE = {"--max-shard-size": "--max-size", "--max-size": "--max-shard-size"}  # of compress, of split
_COMMANDS = {
    **dict.fromkeys(("quantize", "convert", "pack", "prune", "shrink"), "compress"),
    **dict.fromkeys(("diff", "evaluate", "eval"), "compare"),
    **dict.fromkeys(("show", "list", "ls", "stats", "view"), "inspect"),
    **dict.fromkeys(("unpack", "decompress"), "restore"),
    **dict.fromkeys(("shard", "cut"), "split"),
    **dict.fromkeys(("join", "combine", "concat"), "merge"),
    "version": "--version",
}


def option_meant(typed: str, parameters: Collection[Any]) -> str:
    """Say what to type in place of an option that the command does not have; "" where nobody knows.

    parameters: of the command, as typer has them.
    """
    known = {word for p in parameters if p.param_type_name == "option" for word in (*p.opts, *p.secondary_opts)}
    arguments = [p.metavar for p in parameters if p.param_type_name == "argument"]
    meant = _OPTIONS.get(typed, _ALIKE.get(typed, "")).format(typed=typed.lstrip("-"))
    meant = _ALIKE.get(meant, meant) if meant not in known else meant
    if meant in arguments:
        order = ("first", "second", "third")[arguments.index(meant)]
        return f"{meant} is the {order} argument, without an option"
    if meant.split(" ")[0] in known:
        return f"did you mean {meant}?"
    near = difflib.get_close_matches(typed, known, 1, 0.7)
    return f"did you mean {near[0]}?" if near else ""


def command_meant(typed: str, known: Collection[str]) -> str:
    """Say what to type in place of a command that there is not; "" where nobody knows.

    >>> command_meant("quantize", ["compress", "compare"]), command_meant("compar", ["compress", "compare"])
    ('did you mean compress?', 'did you mean compare?')
    """
    near = [typed] if typed in known else difflib.get_close_matches(typed, known, 1)
    meant = near[0] if near else _COMMANDS.get(typed, "")
    return f"did you mean {meant}?" if meant in known or meant.startswith("--") else ""
