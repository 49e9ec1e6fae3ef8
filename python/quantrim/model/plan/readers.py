"""The readers that must open the result, and so which tensors may be rounded, and in which layout."""

from __future__ import annotations

from collections.abc import Collection

from ...files import Checkpoint, TensorInfo
from ...layouts.base import WEIGHT
from ...layouts.bitsandbytes import KINDS, BitsAndBytes
from ..recipe.settings import Settings
from .reader_modules import EMBEDDING, LINEAR, PLAIN, TOUCHED, UNKNOWN, ReaderModules
from .types import ALONE, Reason

BOTH = "both"  # transformers and vLLM
VLLM_BITS = (4, 8)


_ANY = f"reader='any' rounds it too{ALONE}"
_ROUNDED = "reader='transformers' rounds it too"
_KINDS = {
    "embedding": Reason("embedding", "embedding, which vLLM does not open compressed", f"{_ROUNDED}; {_ANY}"),
    "embedding_subclass": Reason(
        "special embedding",
        "embedding of a class of its own, which vLLM does not open compressed",
        f"{_ROUNDED}; {_ANY}",
    ),
    "head": Reason("head", "head, or embedding that the head shares: readers need it as it was", _ANY),
    "tied": Reason("tied", "weight that several modules share: readers need it as it was", _ANY),
    "conv1d": Reason("conv1d", "matrix stored as (in, out), which no reader opens compressed", _ANY),
    "other": Reason("other", "router or other module that is no linear layer", _ANY),
    UNKNOWN: Reason(UNKNOWN, "matrix that is not known to be a linear layer of its reader", _ANY),
}
_EMBEDDING = Reason("embedding", "embedding, which no reader opens in this layout", _ANY)
_TIED = Reason("embedding", "embedding that the head may share, which costs the most to round", _ANY)
_SUBCLASS = Reason("subclass", "linear layer that bitsandbytes does not replace", _ANY)
_BNB_EXPERT = Reason("expert", "expert of a mixture, which bitsandbytes does not replace", _ANY)
_ASYMMETRIC = Reason(
    "asymmetric",
    "linear layer with zero points, which transformers does not open packed",
    "symmetric=True or reader='vllm' round it; " + _ANY,
)
_FEW_ROWS = Reason(
    "few rows",
    "layer of so few rows that their zero points fill one word, which compressed-tensors does not decode",
    "symmetric=True rounds it; " + _ANY,
)
_BLOCKS = Reason("blocks", "matrix whose columns are no multiple of the block", _ANY)
_TOUCHED = Reason(
    "touched",
    "linear layer that transformers opens in codes of 8 bits alone (compressed-tensors)",
    "bits=8, codebook='nf4' or reader='vllm' round it; " + _ANY,
)
_FAILS = Reason(
    "fails",
    "linear layer of a model that transformers cuts weights of as it reads, which fails in compressed-tensors",
    "codebook='nf4' or reader='vllm' round it; " + _ANY,
)
_NO_MATRIX = Reason("rank", "weight that is no matrix of a linear layer: readers open no codes of it", _ANY)


class Readers:
    """The reader's rules for one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.modules = ReaderModules(checkpoint.config)
        known = checkpoint.config is not None and bool(
            self.modules.model_types or checkpoint.config.get("architectures")
        )
        self._usual = BOTH if checkpoint.is_folder and known else "any"

    def of(self, settings: Settings) -> str:
        """Return who must open a tensor: one of READERS, or BOTH. ValueError where that reader has no such layout."""
        private = _only_quantrim(settings)
        if settings.reader is None:
            return "any" if private else self._usual
        if settings.reader == "any" or not settings.rounds:
            return settings.reader
        if private:
            raise ValueError(f"reader={settings.reader!r} must not be given with {private}, which only quantrim reads")
        if settings.reader == "vllm" and settings.bits is not None and settings.bits not in VLLM_BITS:
            raise ValueError(f"reader='vllm' needs bits of 4 or 8, not {settings.bits}")
        if settings.reader == "bitsandbytes" and settings.codebook is None:
            raise ValueError("reader='bitsandbytes' needs codebook='nf4' or 'fp4'")
        return settings.reader

    def why_not(self, info: TensorInfo, settings: Settings, one_scheme: bool) -> Reason | None:
        """Say why the reader would not open a tensor that is rounded so; None where it does.

        one_scheme: whether all codes have one: then transformers makes floats of them as it opens the model, and
        asks no more of a module than that it has a weight.
        """
        reader = self.of(settings)
        if reader == "any" or not settings.rounds:
            return None
        if len(info.shape) != 2 or not info.name.endswith(WEIGHT):
            return _NO_MATRIX
        kind = self.modules.kind(info.name)
        if settings.codebook is not None:
            return self._why_no_blocks(info, settings, kind)
        if reader == "vllm":
            return None if kind in LINEAR else _KINDS[kind]
        if kind in LINEAR and self.modules.fails:
            return _FAILS
        return self._why_not_at_once(info, settings, kind) if one_scheme else self._why_no_module(info, settings, kind)

    def _why_not_at_once(self, info: TensorInfo, settings: Settings, kind: str) -> Reason | None:
        """Say why a matrix stays where transformers decodes all of them as it opens the model."""
        if kind in EMBEDDING and self.of(settings) == "transformers":
            if self.modules.ties_embeddings:
                return _TIED
        elif kind not in LINEAR:
            return _KINDS[kind]
        if settings.symmetric:
            return None
        assert settings.bits is not None
        of_one_word = info.shape[0] * settings.bits <= 32
        return _ASYMMETRIC if kind == "expert" else _FEW_ROWS if of_one_word else None

    def _why_no_module(self, info: TensorInfo, settings: Settings, kind: str) -> Reason | None:
        """Say why transformers has no module for the codes of a matrix."""
        if self.needs_int8(info, settings):
            return None
        if kind in LINEAR:
            return _ASYMMETRIC if not settings.symmetric else _TOUCHED if kind in TOUCHED else None
        return _TIED if kind == "embedding" and self.of(settings) == "transformers" else _KINDS[kind]

    def needs_int8(self, info: TensorInfo, settings: Settings) -> bool:
        """Tell whether transformers opens a tensor only as int8 codes with a scale for each row, under its own name.

        It knows no other layout of compressed-tensors for embeddings, weights that it asks for by name, and those with
        zero points."""
        reader = self.of(settings)
        if reader not in ("transformers", BOTH) or settings.bits is None:
            return False
        kind = self.modules.kind(info.name)
        of_rows = settings.bits == 8 and settings.group == "channel"
        if not settings.symmetric:
            return of_rows and kind in LINEAR and kind != "expert" and reader == "transformers"
        if kind in TOUCHED:
            return of_rows
        return kind == "embedding" and reader == "transformers" and not self.modules.ties_embeddings

    def _why_no_blocks(self, info: TensorInfo, settings: Settings, kind: str) -> Reason | None:
        """Say why bitsandbytes does not open a matrix; None where it does."""
        if kind in PLAIN:
            group = settings.group
            fits = isinstance(group, int) and BitsAndBytes(str(settings.codebook), group, "F32").why_not(info) is None
            return None if fits else _BLOCKS
        if kind in LINEAR:
            return _BNB_EXPERT if kind == "expert" else _SUBCLASS
        return _EMBEDDING if kind == "embedding" else _KINDS[kind]


def _only_quantrim(s: Settings) -> str:
    """Name what is asked for that other readers do not know; '' for nothing."""
    if s.clusters is not None:
        return "clusters"
    if s.codebook is not None and (s.codebook not in KINDS or s.scale_dtype == "bfloat16"):
        return f"codebook={s.codebook!r}" if s.codebook not in KINDS else f"scale_dtype={s.scale_dtype!r}"
    if s.recognize:
        return "recognize"
    return "storage='sparse'" if s.storage == "sparse" else ""


_JOINED = (  # matrices that vLLM joins in one, where they have the same inputs
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)


def partners(modules: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Map each module to those that vLLM joins with it, itself among them; none for modules that it does not join."""
    found = {}
    for module in modules:
        parent, dot, last = module.rpartition(".")
        for group in _JOINED:
            if last in group:
                found[module] = tuple(f"{parent}{dot}{each}" for each in group if f"{parent}{dot}{each}" in modules)
    return found
