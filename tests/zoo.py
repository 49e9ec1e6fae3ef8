"""Models of every architecture that transformers has, made small from their configs: random weights, no downloads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# What a model is small by: config keys -> the most that they may be.
_SIZES: dict[int, str] = {
    64: "hidden_size d_model n_embd embed_dim dim encoder_hidden_size decoder_hidden_size embedding_size emb_dim "
    "word_embed_proj_dim projection_dim model_dim attention_hidden_size hidden_dim proj_dim lru_width width "
    "embed_proj_dim n_embed encoder_embed_dim decoder_embed_dim pooler_hidden_size output_hidden_size "
    "out_hidden_size rnn_hidden_size adapter_hidden_size q_lora_rank kv_lora_rank",
    128: "intermediate_size ffn_dim d_ff encoder_ffn_dim decoder_ffn_dim n_inner ffn_hidden_size d_inner mlp_dim "
    "intermediate_dim moe_intermediate_size shared_expert_intermediate_size ffn_embed_dim expert_ffn_hidden_size "
    "dense_intermediate_size decoder_intermediate_size encoder_intermediate_size max_position_embeddings n_positions "
    "max_source_positions max_target_positions block_size seq_length max_seq_len n_ctx",
    2: "num_hidden_layers n_layer num_layers encoder_layers decoder_layers n_layers num_decoder_layers depth "
    "num_encoder_layers n_encoder_layers n_decoder_layers num_key_value_heads num_kv_heads n_kv_heads "
    "num_experts_per_tok moe_topk top_k_experts moe_k moe_top_k",
    4: "num_attention_heads n_head num_heads encoder_attention_heads decoder_attention_heads n_heads attention_heads "
    "num_decoder_attention_heads encoder_num_attention_heads decoder_num_attention_heads num_experts "
    "num_local_experts n_routed_experts moe_num_experts num_moe_experts",
    16: "head_dim d_kv attention_head_dim kv_channels v_head_dim qk_nope_head_dim qk_rope_head_dim global_head_dim "
    "attention_key_value_dim num_mel_bins",
    256: "vocab_size decoder_vocab_size encoder_vocab_size vocab_size_per_layer_input tgt_vocab_size src_vocab_size",
    32: "image_size",
    8: "patch_size",
    1: "n_shared_experts num_shared_experts n_group topk_group first_k_dense_replace num_expert_group",
}
SIZES = {key: most for most, keys in _SIZES.items() for key in keys.split()}
_PER_LAYER = ("layer_types", "mlp_layer_types", "block_types", "layers_block_type", "attention_layers")
_TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def shrink(config: Any) -> Any:
    """Make a config, and those within it, that of a small model; return it."""
    from transformers import PretrainedConfig

    for key, value in list(vars(config).items()):
        changed = value
        if isinstance(value, PretrainedConfig):
            shrink(value)
        elif key in SIZES and type(value) is int and value > 0:
            changed = min(value, SIZES[key])
        elif key in _PER_LAYER and isinstance(value, (list, tuple)) and value:
            kinds = list(dict.fromkeys(value))
            changed = (kinds * 2)[:2]
        elif key.endswith("token_id") and type(value) is int and value >= SIZES["vocab_size"]:
            changed = _TOKENS.get(key, 5)
        if changed is not value:
            setattr(config, key, changed)
    _make_consistent(config)
    return config


def _make_consistent(config: Any) -> None:
    """Sizes that follow from others."""
    if getattr(config, "kv_lora_rank", None):  # multi-head latent attention
        config.num_key_value_heads = config.num_attention_heads
        config.qk_head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
    if getattr(config, "rotary_dim", None):
        config.rotary_dim = 8
    if config.model_type.endswith("_vl_text") and config.rope_parameters:  # three parts of half a head
        config.rope_parameters["mrope_section"] = [2, 3, 3]
    if config.model_type == "mamba2":
        config.n_groups, config.num_heads = 1, config.hidden_size * config.expand // config.head_dim
    if getattr(config, "attn_layer_period", None):  # two layers, the second of attention
        config.attn_layer_period, config.attn_layer_offset = 2, 1
    if getattr(config, "stage_names", None) and hasattr(config, "num_hidden_layers"):
        last = f"stage{config.num_hidden_layers}"
        config.stage_names = ["stem", *(f"stage{k + 1}" for k in range(config.num_hidden_layers))]
        config._out_features, config._out_indices = [last], [config.num_hidden_layers]
    if isinstance(getattr(config, "num_heads", None), (list, tuple)) and hasattr(config, "window_size"):
        config.embed_dim, config.window_size = 8 * config.num_heads[0], 2
        config.patch_size, config.image_size = 4, 64
        config.hidden_size = config.embed_dim * 2 ** (len(config.depths) - 1)


def model_types() -> list[str]:
    """All model types that transformers knows."""
    from transformers import CONFIG_MAPPING

    return sorted(CONFIG_MAPPING)


def model_classes(model_type: str) -> Iterator[type[Any]]:
    """The classes of a model type, those that `Auto...` classes choose, each once."""
    import transformers
    from transformers.models.auto import modeling_auto

    seen: dict[str, None] = {}
    for table, classes in sorted(vars(modeling_auto).items()):
        if table.startswith("MODEL") and table.endswith("MAPPING_NAMES"):
            found = classes.get(model_type, ())
            seen |= dict.fromkeys([found] if isinstance(found, str) else found)
    for name in seen:
        if hasattr(transformers, name):
            yield getattr(transformers, name)


def small_config(model_type: str) -> Any:
    """A new small config of a model type."""
    from transformers import CONFIG_MAPPING

    return shrink(CONFIG_MAPPING[model_type]())


# The class that people open a model of some type with, the first that there is
_USUAL = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MASKED_LM", "SPEECH_SEQ_2_SEQ", "CTC")
_USUAL += ("IMAGE_CLASSIFICATION",)


def main_class(model_type: str) -> type[Any]:
    """The usual class of a model type."""
    import transformers
    from transformers.models.auto import modeling_auto

    for name in (*(f"MODEL_FOR_{task}_MAPPING_NAMES" for task in _USUAL), "MODEL_MAPPING_NAMES"):
        found = getattr(modeling_auto, name).get(model_type)
        if found is not None:
            kind = getattr(transformers, found if isinstance(found, str) else found[0])
            assert isinstance(kind, type)
            return kind
    raise KeyError(model_type)


def small_model(model_type: str) -> Any:
    """A small model of random weights, the same each time."""
    import torch

    torch.manual_seed(0)
    return main_class(model_type)(small_config(model_type)).eval()


def inputs_of(model: Any) -> dict[str, Any]:
    """Something that a model computes an output of."""
    import inspect

    import torch

    torch.manual_seed(1)
    taken = inspect.signature(model.forward).parameters
    config = model.config
    inputs: dict[str, Any] = {}
    if "input_ids" in taken:
        inputs["input_ids"] = torch.randint(6, 100, (1, 12))
    if "pixel_values" in taken and ("input_ids" not in taken or config.model_type in ("clip", "siglip", "blip")):
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", 32) or 32
        size = size if isinstance(size, int) else size[0]
        inputs["pixel_values"] = torch.rand(1, getattr(vision, "num_channels", 3), size, size)
    if "input_features" in taken:
        inputs["input_features"] = torch.rand(1, config.num_mel_bins, 2 * config.max_source_positions)
    if "input_values" in taken:
        inputs["input_values"] = torch.rand(1, 4000)
    if "decoder_input_ids" in taken and getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = torch.randint(6, 100, (1, 5))
    return inputs
