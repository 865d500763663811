"""Write a chat model of 0.5 MB as GGUF: a llama with random weights.

It answers with random words, but llama.cpp serves it like any other: it streams, counts usage, refuses and errs.
With `--ends` the end of an answer is as likely as a word, for clients that accept no answer of the longest length.
"""

from __future__ import annotations

import sys

import gguf  # type: ignore[import-not-found]  # lives in .e2e/models
import numpy as np  # type: ignore[import-not-found]  # likewise

EMBEDDING, LAYERS, HEADS, FEED_FORWARD, CONTEXT_TOKENS = 64, 2, 4, 128, 65536
WORDS = ("the", "gate", "opens", "for", "a", "token", "and", "every", "word", "of", "an", "answer", "comes", "through")
SPECIAL = ["<unk>", "<s>", "</s>"]
RAW_BYTES = [f"<0x{value:02X}>" for value in range(256)]
VOCABULARY = SPECIAL + RAW_BYTES + ["\u2581" + word for word in WORDS] + list("etaoinshrdlu .,")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


def add_shape(out: gguf.GGUFWriter) -> None:
    out.add_context_length(CONTEXT_TOKENS)
    out.add_embedding_length(EMBEDDING)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(FEED_FORWARD)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(EMBEDDING // HEADS)
    out.add_vocab_size(len(VOCABULARY))
    out.add_file_type(0)


def add_tokenizer(out: gguf.GGUFWriter) -> None:
    kind = gguf.TokenType
    kinds = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * len(RAW_BYTES)
    out.add_tokenizer_model("llama")
    out.add_token_list(VOCABULARY)
    out.add_token_scores([0.0] * len(VOCABULARY))
    out.add_token_types(kinds + [kind.NORMAL] * (len(VOCABULARY) - len(kinds)))
    out.add_bos_token_id(SPECIAL.index("<s>"))
    out.add_eos_token_id(SPECIAL.index("</s>"))
    out.add_unk_token_id(SPECIAL.index("<unk>"))
    out.add_chat_template(TEMPLATE)


def add_weights(out: gguf.GGUFWriter, ends: bool) -> None:
    dice = np.random.default_rng(7)

    def random(*shape: int, spread: float = 0.1) -> np.ndarray:
        return (dice.standard_normal(shape) * spread).astype(np.float32)

    ones = np.ones(EMBEDDING, np.float32)
    out.add_tensor("token_embd.weight", random(len(VOCABULARY), EMBEDDING, spread=0.5))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        out.add_tensor(block + "attn_norm.weight", ones)
        out.add_tensor(block + "ffn_norm.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            out.add_tensor(f"{block}{name}.weight", random(EMBEDDING, EMBEDDING))
        out.add_tensor(block + "ffn_gate.weight", random(FEED_FORWARD, EMBEDDING))
        out.add_tensor(block + "ffn_up.weight", random(FEED_FORWARD, EMBEDDING))
        out.add_tensor(block + "ffn_down.weight", random(EMBEDDING, FEED_FORWARD))
    out.add_tensor("output_norm.weight", ones)
    head = random(len(VOCABULARY), EMBEDDING, spread=0.5)
    end = head[SPECIAL.index("</s>")].copy()
    head[: len(SPECIAL) + len(RAW_BYTES)] *= 0.01  # words are far likelier than raw bytes or an early end
    if ends:
        head[SPECIAL.index("</s>")] = end
    out.add_tensor("output.weight", head)


def main(path: str, ends: bool) -> None:
    out = gguf.GGUFWriter(path, "llama")
    add_shape(out)
    add_tokenizer(out)
    add_weights(out, ends)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    main(sys.argv[1], "--ends" in sys.argv[2:])
