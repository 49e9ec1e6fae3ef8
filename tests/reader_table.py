"""Make reader_modules.json of quantrim.model.plan: what transformers makes of each matrix, by family of architectures.

    python tests/reader_table.py

Every architecture is built without memory (on torch's meta device) from a small config, and its modules are looked
through. A row is a family (model type): for each kind of module the shortest ends of names that no module of another
kind in that family has.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo import model_classes, model_types, small_config

TABLE = Path(__file__).parents[1] / "python" / "quantrim" / "model" / "plan" / "reader_modules.json"
COMMON = 5  # families in which a name must mean the same for it to be trusted where the family is not known
Path_ = tuple[str, ...]
Family = dict[str, list[str]]


def main() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    found = {model_type: family for model_type in model_types() if (family := family_of(model_type))}
    TABLE.write_text(text_of({"transformers": transformers.__version__, "*": common(found)}, found))


def family_of(model_type: str) -> Family:
    """The row of one model type; empty where none of its classes can be built."""
    kinds: dict[Path_, set[str]] = defaultdict(set)
    renamed: dict[str, str] = {}
    ties = []
    fails = False
    for model in built(model_type):
        stored = stored_names(model)
        fails = fails or cuts_weights(model)
        for path, kind in modules_of(model):
            kinds[path].add(kind)
            for name in stored.get(path, ()):
                kinds[name].add(kind if len(stored[path]) == 1 else "other")
            if len(stored.get(path, ())) == 1 and changed_end(stored[path][0], path):
                renamed |= [changed_end(stored[path][0], path)]
        ties += [type(model).__name__] if getattr(model, "_tied_weights_keys", None) else []
    if not kinds:
        return {}
    for path in expert_paths(model_type):
        kinds[path].add("expert")
    family: dict[str, set[str]] = defaultdict(set)
    for path, end in shortest_ends(kinds).items():
        family[next(iter(kinds[path])) if len(kinds[path]) == 1 else "other"].add(".".join(end))
    row = {kind: sorted(ends) for kind, ends in sorted(family.items())}
    row |= {"ties": sorted(ties)} if ties else {}
    row |= {"fails": ["compressed-tensors"]} if fails else {}
    return row | ({"renamed": [f"{old}={new}" for old, new in sorted(renamed.items())]} if renamed else {})


def built(model_type: str) -> Iterable[Any]:
    """A model of each class, without memory for its weights. Classes that a small config does not fit are left out."""
    import torch

    for kind in model_classes(model_type):
        try:
            config = small_config(model_type)
            with torch.device("meta"):
                yield kind(config)
        except Exception:  # what fails here is whatever their constructors do; the test counts what is left
            continue


def modules_of(model: Any) -> Iterable[tuple[Path_, str]]:
    """The modules that hold a matrix named weight: their paths, numbers as *, and kinds."""
    import torch
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.quantizers_utils import should_convert_module

    heads, tied = shared_names(model)
    touched = touched_paths(model)
    whole = list(model._keep_in_fp32_modules or [])
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
            continue
        kind = "other"
        if isinstance(module, torch.nn.Linear):
            plain = type(module) is torch.nn.Linear and should_convert_module(name, whole)
            kind = ("linear" if plain else "linear_subclass") + "_touched" * (path_of(name) in touched)
            kind = "head" if name in heads else "tied" if name in tied else kind
        elif isinstance(module, torch.nn.Embedding):
            kind = "embedding" if type(module) is torch.nn.Embedding else "embedding_subclass"
        elif isinstance(module, Conv1D):
            kind = "conv1d"
        yield path_of(name), kind


def stored_names(model: Any) -> dict[Path_, list[Path_]]:
    """Paths of modules -> those of their weights in a file, where transformers renames what it reads; several where it
    joins or cuts tensors."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange, WeightConverter, apply_converters, apply_renamings

    steps = get_model_conversion_mapping(model, add_legacy=False)[::-1]
    undo = [step.reverse_transform() for step in steps if not isinstance(step, PrefixChange)]
    converters = [step for step in undo if isinstance(step, WeightConverter)]
    renamings = [step for step in undo if not isinstance(step, WeightConverter)]
    found: dict[Path_, list[Path_]] = {}
    for name, module in model.named_modules():
        if getattr(module, "weight", None) is None or path_of(name) in found:
            continue
        key = f"{name}.weight"
        converted, pattern = apply_converters(key, converters)
        if pattern is None:
            found[path_of(name)] = [path_of(apply_renamings(key, renamings).removesuffix(".weight"))]
        else:
            step = next(each for each in converters if pattern in each.source_patterns)
            ends = [target.removesuffix(".weight").split(".") for target in step.target_patterns]
            first = converted.removesuffix(".weight").split(".")
            found[path_of(name)] = [path_of(".".join((*first[: len(first) - len(end)], *end))) for end in ends] + [()]
    return found


def cuts_weights(model: Any) -> bool:
    """Whether transformers cuts a weight into several as it reads it, which fails in any checkpoint of
    compressed-tensors: it wants the weight's parts as well, and does not make many of many."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    steps = [step for step in get_model_conversion_mapping(model) if isinstance(step, WeightConverter)]
    cutting = [step for step in steps if len(step.target_patterns) > 1 and step.source_patterns[0].endswith(".weight")]
    return any(not any(each.supports_many_to_many for each in step.operations) for step in cutting)


def changed_end(stored: Path_, path: Path_) -> tuple[str, ...]:
    """The two names of a module, without what both begin with; nothing where the reader's only has more before it."""
    same = next((k for k, (a, b) in enumerate(zip(stored, path, strict=False)) if a != b), len(stored))
    more_before = path[len(path) - len(stored) :] == stored
    return () if more_before else (".".join(stored[same:]), ".".join(path[same:]))


def touched_paths(model: Any) -> set[Path_]:
    """Linear modules whose weight transformers asks for when it has opened a model, even one that is compressed, which
    has no weight then."""
    import torch

    linear = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            linear[path_of(name)].append(module)
    if initializes_without(model, [module for modules in linear.values() for module in modules]):
        return set()
    return {path for path, modules in linear.items() if not initializes_without(model, modules)}


def initializes_without(model: Any, modules: Iterable[Any]) -> bool:
    """Whether a model is initialized in peace while these modules have no weight."""
    weights = {module: module._parameters.pop("weight") for module in dict.fromkeys(modules)}
    for module in model.modules():
        module.__dict__.pop("_is_hf_initialized", None)
    try:
        model.initialize_weights()
    except AttributeError as error:
        return "weight" not in str(error)
    except Exception:  # of memory that is not there
        return True
    finally:
        for module, weight in weights.items():
            module._parameters["weight"] = weight
    return True


def shared_names(model: Any) -> tuple[set[str], set[str]]:
    """Modules that put out logits of tokens or share the weight of an embedding; those that share another weight."""
    import torch

    output = None
    with contextlib.suppress(NotImplementedError):
        output = model.get_output_embeddings()
    modules = dict(model.named_modules())
    heads = {name for name, module in modules.items() if output is not None and module is output}
    tied = set()
    for pair in getattr(model, "all_tied_weights_keys", {}).items():
        names = {key.removesuffix(".weight") for key in pair}
        embeds = any(isinstance(modules.get(name), torch.nn.Embedding) for name in names)
        (heads if embeds else tied).update(names)
    return heads, tied


def expert_paths(model_type: str) -> Iterable[Path_]:
    """Matrices of single experts in a file, which transformers joins when it reads them."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    for step in get_checkpoint_conversion_mapping(model_type) or ():
        if any(type(each).__name__ == "MergeModulelist" for each in getattr(step, "operations", ())):
            for pattern in step.source_patterns:
                if pattern.endswith(".weight") and "experts.*." in pattern:
                    yield path_of("experts.*." + pattern.removesuffix(".weight").rpartition("experts.*.")[2])


def path_of(name: str) -> Path_:
    return tuple("*" if part.isdigit() else part for part in name.split("."))


def shortest_ends(kinds: Mapping[Path_, set[str]]) -> dict[Path_, Path_]:
    """The shortest end of each path that only paths of the same kinds have; the whole path where there is none."""
    ends: dict[Path_, set[str]] = defaultdict(set)
    for path, found in kinds.items():
        for first in range(len(path)):
            ends[path[first:]] |= found
    return {path: next((end for end in _named_ends(path) if len(ends[end]) == 1), path) for path in kinds}


def _named_ends(path: Path_) -> Iterable[Path_]:
    """The ends of a path that begin with a name, the shortest first."""
    return (path[first:] for first in range(len(path) - 1, -1, -1) if path[first] != "*")


def common(families: Mapping[str, Family]) -> Family:
    """Names of one part that mean the same in all families, and that several families have."""
    means: dict[str, Counter[str]] = defaultdict(Counter)
    for family in families.values():
        for kind, ends in family.items():
            for end in ends if kind not in ("ties", "tied", "renamed", "fails") else ():
                means[end.split(".")[-1]][kind] += 1
    row: dict[str, list[str]] = defaultdict(list)
    for end, counts in sorted(means.items()):
        kind = _least(set(counts))
        if kind and counts.total() >= COMMON and end != "*":
            row[kind].append(end)
    return dict(sorted(row.items()))


def _least(kinds: set[str]) -> str:
    """The kind of which no more is said than is true of all these; '' where they have nothing in common."""
    if len(kinds) == 1:
        return next(iter(kinds))
    linear = {kind for kind in kinds if kind.startswith("linear")}
    if kinds <= linear | {"expert"}:
        return "linear_subclass"  # which says less than "linear"; touched ones are a matter of their families
    if kinds <= linear | {"head"}:
        return "head"
    return "embedding_subclass" if kinds <= {"embedding", "embedding_subclass", "head"} else ""


def text_of(head: Mapping[str, Any], families: Mapping[str, Family]) -> str:
    """The table as JSON, a line for each row; a family that is like an earlier one has its name in place of a row."""
    first: dict[str, str] = {}
    lines = [f"{json.dumps(key)}: {_line(value)}" for key, value in head.items()]
    for name, family in families.items():
        row = _line(family)
        lines.append(f"{json.dumps(name)}: {json.dumps(first[row]) if row in first else row}")
        first.setdefault(row, name)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _line(row: Any) -> str:
    if isinstance(row, dict):
        return json.dumps({kind: " ".join(ends) for kind, ends in row.items()})
    return json.dumps(row)


if __name__ == "__main__":
    main()
