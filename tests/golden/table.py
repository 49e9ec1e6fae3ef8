"""The cases of the golden tests: one row each, a name, a source and the steps that are taken one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

Options = Mapping[str, Any]
DECOMPRESS: tuple[str, Options] = ("decompress", {})


@dataclass(frozen=True)
class Case:
    """steps: (verb of `outputs.run`, its options); each step's source is the result of the one before. report: whether
    the report of the first step is compared too. kept: whether the result of the first step is a file in `files/`.
    suffix: of the results, where it is not that of the source."""

    name: str
    source: str
    steps: tuple[tuple[str, Options], ...]
    report: bool = False
    kept: bool = False
    suffix: str = ""

    def changed(self, **options: Any) -> Case:
        """The same with other options in its first step."""
        (verb, old), *others = self.steps
        return replace(self, steps=((verb, {**old, **options}), *others))


def coded(name: str, source: str = "few", *, report: bool = False, kept: bool = False, **options: Any) -> Case:
    """All matrices become something that `decompress` makes floats of."""
    return Case(name, source, (("compress", _usual(options)), DECOMPRESS), report, kept)


def floats(name: str, source: str = "few", *, report: bool = False, **options: Any) -> Case:
    """What `compress` leaves floats."""
    return Case(name, source, (("compress", _usual(options)),), report)


def _usual(options: dict[str, Any]) -> dict[str, Any]:
    """Sources are so small that all of them would be copied."""
    table = options.get("recipe", options)
    if isinstance(table, dict):
        table.setdefault("min_elements", 0)
    return options


def cases() -> Iterator[Case]:
    yield from _integers()
    yield from _codebooks()
    yield from _pruning()
    yield from _sparse()
    yield from _recipes()
    yield from _models()
    yield from _readers()
    yield from _files()
    for source in ("packed", "floats8", "masked", "bitsandbytes", "blocks"):
        yield Case(f"foreign {source}", source, (DECOMPRESS,))
    for dtype in ("float32", "float16", "bfloat16"):
        yield Case(f"foreign packed as {dtype}", "packed", (("decompress", {"dtype": dtype}),))


def _integers() -> Iterator[Case]:
    """compressed-tensors, pack-quantized, and what decides its scales and codes."""
    for bits in range(2, 9):
        yield coded(f"int{bits}", bits=bits, kept=bits == 4)
        yield coded(f"int{bits} asymmetric", bits=bits, symmetric=False)
    for group in (8, 16, 64, "channel"):
        yield coded(f"int4 group {group}", bits=4, group_size=group)
        yield coded(f"int5 asymmetric group {group}", bits=5, group_size=group, symmetric=False)
    yield coded("int8 group 32", bits=8, group_size=32)
    for dtype in ("float32", "float16", "bfloat16"):
        yield coded(f"scales {dtype}", bits=4, scale_dtype=dtype)
    for scale in ("absmax", "mse", "power_of_two", 0.03125):
        yield coded(f"scale {scale}", bits=4, scale=scale)
        yield coded(f"scale {scale} int8 asymmetric", bits=8, scale=scale, symmetric=False)
    for rounding in ("away", "floor", "stochastic"):
        yield coded(f"rounding {rounding}", bits=3, rounding=rounding)
    for seed in (1, 2**63):
        yield coded(f"rounding by seed {seed}", bits=3, rounding="stochastic", seed=seed, symmetric=False)
    yield floats("simulate int4", bits=4, simulate=True)
    yield coded("stacks of small matrices", "alike", bits=4)
    yield coded("stacks of small matrices int8", "alike", bits=8)
    for bits, more in ((4, {}), (5, {"symmetric": False}), (3, {"rounding": "stochastic", "seed": 3})):
        yield coded(f"wide int{bits}", "wide", bits=bits, **more)


def _codebooks() -> Iterator[Case]:
    """bitsandbytes, and our own layout of codes."""
    for kind in ("nf4", "fp4"):
        yield coded(f"bitsandbytes {kind}", codebook=kind, group_size=32, kept=kind == "nf4")
        yield coded(f"{kind} group 64", codebook=kind)
        yield coded(f"{kind} bfloat16 scales", codebook=kind, group_size=32, scale_dtype="bfloat16")
    for kind in ("mxfp4", "mxint8", "binary", "ternary"):
        yield coded(kind, codebook=kind, kept=kind == "mxfp4")
        yield coded(f"{kind} of everything", "mixed.safetensors", codebook=kind)
    yield coded("table", codebook=[-1.0, -0.25, 0.0, 0.125, 0.5, 1.0], group_size="channel")
    yield coded("table tensor", codebook=[-1.0, 0.0, 1.0], group_size="tensor", scale_dtype="float32")
    for clusters, group in ((2, "tensor"), (16, "tensor"), (16, "channel"), (5, 32), (256, "tensor")):
        yield coded(f"{clusters} clusters {group}", clusters=clusters, group_size=group, kept=group == 32)
    yield coded("clusters of everything", "mixed.safetensors", clusters=8)
    yield coded("wide nf4", "wide", codebook="nf4", group_size=32)
    yield coded("wide clusters", "wide", clusters=16)
    yield floats("simulate nf4", codebook="nf4", simulate=True)
    yield coded("recognize", "exact", recognize=True, bits=4, report=True, kept=True)
    for group in (16, 32, "channel", "tensor"):
        yield coded(f"recognize group {group}", "exact", recognize=True, group_size=group, bits=4)
    yield coded("recognize and copy", "exact", recognize=True, bits=None)


def _pruning() -> Iterator[Case]:
    """Every way to remove weights, which keep their dtype."""
    ways: dict[str, dict[str, Any]] = {
        "half": {"prune": 0.5},
        "rows each": {"prune": 0.3, "prune_axis": 1},
        "2:4": {"prune": "2:4"},
        "1:8": {"prune": "1:8"},
        "row": {"prune": 0.25, "prune_pattern": "row"},
        "column": {"prune": 0.4, "prune_pattern": "column"},
        "blocks": {"prune": 0.5, "prune_pattern": [4, 8]},
        "global": {"prune": 0.5, "prune_scope": "global"},
        "global blocks": {"prune": 0.5, "prune_scope": "global", "prune_pattern": [2, 16]},
    }
    for name, way in ways.items():
        yield floats(f"prune {name}", bits=None, **way, storage="dense")
        yield floats(f"prune {name} at random", bits=None, **way, storage="dense", prune_score="random", seed=5)
        if "prune_pattern" in way:
            yield floats(f"prune {name} by l2", bits=None, **way, storage="dense", prune_score="l2")
    for score in ("wanda", "taylor", "fisher", "obd", "given"):
        data = {"prune_score": score, "prune_data": f"{score}.safetensors"}
        for name in ("half", "2:4", "blocks"):
            yield floats(f"prune {name} by {score}", bits=None, **ways[name], storage="dense", **data)
    data = {"prune_score": "given", "prune_data": "row_scores.safetensors"}
    yield floats("prune row by its score", bits=None, **ways["row"], **data)
    data["prune_data"] = "column_scores.safetensors"
    yield floats("prune column by its score", bits=None, **ways["column"], **data)
    yield floats("prune alone", prune=0.5)
    yield floats("prune what divides", "mixed.safetensors", bits=None, prune="2:4", report=True)
    yield floats("prune half of everything", "mixed.safetensors", bits=None, prune=0.5)
    yield floats("prune wide", "wide", bits=None, prune=0.5, prune_pattern="column")
    for mode, t in (("magnitude", 0.05), ("signed", -0.02), ("soft", 0.03)):
        yield floats(f"threshold {mode}", bits=None, threshold=t, threshold_mode=mode)
    yield floats("shrink", bits=None, shrink_l1=0.01, shrink_l2=0.125)
    yield floats("shrink rows", bits=None, shrink_l1=0.5, shrink_axis=1)
    for name, way in (("soft", {"threshold": 0.03, "threshold_mode": "soft"}), ("shrunk", {"shrink_l2": 0.5})):
        yield coded(f"int4 {name}", bits=4, **way)
    yield coded("int4 2:4", bits=4, prune="2:4")
    yield coded("int4 pruned dense", bits=4, prune=0.5, storage="dense")
    yield coded("nf4 pruned", codebook="nf4", group_size=32, prune=0.5)
    yield coded("clusters pruned", clusters=16, prune=0.75)
    yield floats("simulate pruned", bits=4, prune=0.5, simulate=True)


def _sparse() -> Iterator[Case]:
    """The bitmask layout, with codes and without."""
    for share in (0.0, 0.5, 0.9, 1.0):
        yield coded(f"sparse {share}", bits=None, prune=share, storage="sparse")
        yield coded(f"sparse int4 {share}", bits=4, prune=share, storage="sparse", kept=share == 0.5)
    for bits in (2, 3, 5, 8):
        yield coded(f"sparse int{bits}", bits=bits, prune=0.75, storage="sparse")
        yield coded(f"sparse int{bits} asymmetric", bits=bits, prune=0.75, storage="sparse", symmetric=False)
    yield coded("sparse auto", bits=4, prune=0.8)
    yield coded("sparse channel", bits=4, prune=0.8, storage="sparse", group_size="channel")
    yield coded("sparse 2:4", bits=4, prune="2:4", storage="sparse")
    yield coded("sparse everything", "mixed.safetensors", bits=None, prune=0.7, storage="sparse")
    yield coded("sparse int4 everything", "mixed.safetensors", bits=4, prune=0.7, storage="sparse", report=True)
    yield coded("sparse wide", "wide", bits=3, prune=0.7, storage="sparse")


def _recipes() -> Iterator[Case]:
    """Rules, and what holds for a whole file."""
    every = "mixed.safetensors"
    yield coded("everything int4", every, bits=4, report=True)
    yield coded("everything int4 asymmetric", every, bits=4, symmetric=False)
    yield coded("everything int8", every, bits=8)
    yield coded("everything int3 channel", every, bits=3, group_size="channel")
    yield coded("usual least size", every, bits=4, min_elements=4096)
    yield coded("least size", every, bits=4, min_elements=1600)
    yield coded("include", every, bits=4, include=["*q_proj*", "conv.*"])
    yield coded("exclude and drop", every, bits=4, exclude="*.1.*", drop=["positions", "*.2.*"])
    for dtype in ("float16", "bfloat16"):
        yield floats(f"dtype {dtype}", every, bits=None, dtype=dtype)
        yield coded(f"int4 and {dtype}", every, bits=4, dtype=dtype, include="*.0.mlp*")
        yield floats(f"dtype {dtype} of double", "double", bits=None, dtype=dtype)
    for name, options in {"int4": {"bits": 4}, "nf4": {"codebook": "nf4"}, "3 clusters": {"clusters": 3}}.items():
        yield floats(f"simulate {name} everything", every, **options, simulate=True)
        yield coded(f"double {name}", "double", **options)
    rules = [
        {"match": "*embed*", "bits": 8, "group_size": "channel"},
        {"match": "*.0.*", "codebook": "nf4", "group_size": 32},
        {"match": "*.1.*down*", "clusters": 4},
        {"match": "*.1.*", "bits": 3, "symmetric": False, "prune": 0.5, "storage": "sparse"},
        {"match": "conv*", "bits": "none", "prune": 0.5, "prune_pattern": "row"},
        {"match": "odd*", "keep": True},
        {"match": "positions", "drop": True},
        {"match": "*.2.*", "scale": "absmax", "rounding": "away", "scale_dtype": "float32"},
    ]
    yield coded("rules", every, recipe={"bits": 4, "rule": rules}, report=True)
    yield coded("recipe file", recipe="recipe.toml")


def _models() -> Iterator[Case]:
    """Neurons and heads that leave, with config.json."""
    removal = {"layers": ["fc1", "fc2", "fc3"], "sparsity": 0.4}
    ways: dict[str, dict[str, Any]] = {
        "l2": {},
        "l1 through relu": {"score": "l1", "activation": "relu"},
        "given": {"score": "given", "data": "unit_scores.safetensors", "multiple_of": 4},
    }
    for name, way in ways.items():
        removed = [removal | way | {"apart": ["norm"]}]
        yield floats(f"neurons by {name}", "chain", recipe={"bits": "none", "remove_units": removed})
        yield coded(f"neurons by {name} int4", "chain", recipe={"bits": 4, "remove_units": removed})
    through = [{"layers": ["fc1", "norm", "fc2"], "sparsity": 0.25}]
    yield floats("neurons with a norm", "chain", recipe={"bits": "none", "remove_units": through})
    module = "model.layers.*."
    attention = [[f"{module}self_attn.{name}_proj" for name in "qkv"], f"{module}self_attn.o_proj"]
    gated = [[f"{module}mlp.gate_proj", f"{module}mlp.up_proj"], f"{module}mlp.down_proj"]
    heads = {"layers": attention, "sparsity": 0.5, "head_dim": 8}
    both = [heads, {"layers": gated, "sparsity": 0.25}]
    yield floats("heads", "llama", recipe={"bits": "none", "remove_units": [heads]}, report=True)
    yield floats("heads and neurons", "llama", recipe={"bits": "none", "remove_units": both})
    yield coded("heads and neurons int4", "llama", recipe={"bits": 4, "remove_units": both})


def _readers() -> Iterator[Case]:
    """Folders for those who open them."""
    for model in ("llama", "mixtral"):
        yield coded(f"{model} int4", model, bits=4, report=True)
        for reader in ("transformers", "vllm", "any"):
            yield coded(f"{model} int4 for {reader}", model, bits=4, reader=reader)
            yield coded(f"{model} int8 for {reader}", model, bits=8, reader=reader)
        yield coded(f"{model} asymmetric", model, bits=4, symmetric=False, reader="vllm")
        yield coded(f"{model} for bitsandbytes", model, codebook="nf4", reader="bitsandbytes", group_size=32)
        yield floats(f"{model} simulate", model, bits=4, simulate=True)
        yield floats(f"{model} 2:4", model, bits=None, prune="2:4")
        recipe = {"reader": "transformers", "rule": [{"match": "*.0.self_attn.*", "bits": 8}]}
        yield coded(f"{model} two widths", model, recipe=recipe)
    yield coded("llama asymmetric for transformers", "llama", bits=4, symmetric=False, reader="transformers")
    yield coded("llama fp4", "llama", codebook="fp4", group_size=32, reader="bitsandbytes")
    yield coded("llama joined", "llama", bits=4, reader="vllm", exclude="*.0.*k_proj*")
    yield coded("llama without a layer", "llama", bits=4, drop="*.1.*")
    rules = [{"match": "*.0.self_attn.*", "bits": 4, "symmetric": True}]
    recipe = {"reader": "transformers", "bits": 8, "symmetric": False, "rule": rules}
    yield coded("llama two widths asymmetric", "llama", recipe=recipe)
    for bits in (4, 8):
        yield coded(f"tied int{bits}", "tied", bits=bits)
    yield coded("llama sparse", "llama", bits=4, prune=0.75, reader="any")
    yield coded("llama shards", "llama", bits=4, reader="any", max_shard_size=8000)
    yield coded("llama one shard", "llama", bits=4, max_shard_size="1GB")
    yield coded("folder int4", "mixed", bits=4)
    yield coded("folder asymmetric channel", "mixed", bits=8, symmetric=False, group_size="channel")
    yield floats("folder bfloat16", "mixed", bits=None, dtype="bfloat16")
    yield coded("folder mxfp4", "mixed", codebook="mxfp4")


def _files() -> Iterator[Case]:
    """Cut, joined, made smaller without loss, and floats of other dtypes."""
    for source in ("mixed.safetensors", "mixed", "llama"):
        yield Case(f"split and merge {source}", source, (("split", {"layers": 1}), ("merge", {})))
        yield Case(f"split by size {source}", source, (("split", {"max_size": 8000}),))
        yield Case(f"lossless {source}", source, (("lossless", {}), ("restore", {})))
    yield Case("merge some", "llama", (("merge", {"drop": "*norm*", "drop_lowest": 1}),))
    yield Case("split codes", "llama", (("compress", {"min_elements": 0}), ("split", {"layers": 1}), ("merge", {})))
    yield Case("lossless and int4", "mixed", (("lossless", {}), ("compress", {"bits": 4, "min_elements": 0})))
    for name, options in {
        "int4": {},
        "nf4": {"codebook": "nf4"},
        "sparse int4": {"prune": 0.7, "storage": "sparse"},
        "mxfp4": {"codebook": "mxfp4", "group_size": 32},
    }.items():
        for source in ("few", "alike") if name == "int4" else ("few",):
            yield replace(coded(f"npz of {name} {source}", source, **options), suffix=".npz")
    yield replace(floats("npz of simulated int4", "mixed.safetensors", bits=4, simulate=True), suffix=".npz")
    for dtype in ("float32", "float16", "bfloat16"):
        steps = (("compress", {"bits": 4, "min_elements": 0}), ("decompress", {"dtype": dtype}))
        yield Case(f"int4 back as {dtype}", "mixed", steps)


CASES = {case.name: case for case in cases()}
