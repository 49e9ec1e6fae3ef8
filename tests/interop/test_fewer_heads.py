"""transformers opens attention with fewer heads, and it answers as the whole model without what they put out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quantrim as qt
from quantrim.model import compress

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="needs torch: pip install quantrim[interop]")
transformers: Any = pytest.importorskip("transformers", reason="needs transformers")

ATTENTION = "model.layers.*.self_attn."


@pytest.mark.promise("fault-D6")
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_grouped_queries(tmp_path: Path, family: str) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 64}
    config = getattr(transformers, f"{family}Config")(**sizes, **heads)
    whole = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    whole.save_pretrained(tmp_path / "m")
    names = [ATTENTION + name for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    table = {"layers": [names[:3], names[3]], "sparsity": 0.5, "head_dim": 8}
    compress(tmp_path / "m", tmp_path / "t", recipe={"bits": "none", "remove_units": [table]})
    small = getattr(transformers, f"{family}ForCausalLM").from_pretrained(tmp_path / "t").eval()
    assert (small.config.num_attention_heads, small.config.num_key_value_heads, small.config.head_dim) == (4, 2, 8)
    ids = torch.randint(0, 96, (3, 20))
    with torch.no_grad():
        before = whole(ids).logits
        for layer in whole.model.layers:
            attention = layer.self_attn
            parts = [getattr(attention, f"{name}_proj").weight.reshape(4, -1) for name in "qkv"]
            keep = qt.prune_mask(qt.importance.l2(torch.cat(parts, 1), axis=1), 0.5)
            attention.o_proj.weight *= torch.tensor(np.repeat(keep, 16))
        want, found = whole(ids).logits, small(ids).logits
    assert (want - before).abs().max() > 0.01
    assert torch.allclose(found, want, atol=1e-5)  # sums of fewer terms, in float32
