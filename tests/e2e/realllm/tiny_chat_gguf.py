"""Write a chat model of 0.5 MB as GGUF: a llama with random weights.

It answers with random words, but llama.cpp serves it like any other: it streams, counts usage, refuses and errs.
With `--ends` the end of an answer is as likely as a word, for clients that accept no answer of the longest length.
With `--calls` it is shown tools, so that llama.cpp forces a call of one if `tool_choice` does, and the beginning of a
call is always the likeliest word. With both it ends after one call.
"""

import sys

import gguf  # type: ignore[import-not-found]  # lives in .e2e/models
import numpy as np  # type: ignore[import-not-found]  # likewise

EMBEDDING, LAYERS, HEADS, FEED_FORWARD, CONTEXT_TOKENS = 64, 2, 4, 128, 65536
WORDS = ("the", "gate", "opens", "for", "a", "token", "and", "every", "word", "of", "an", "answer", "comes", "through")
SPECIAL = ["<unk>", "<s>", "</s>"]
RAW_BYTES = [f"<0x{value:02X}>" for value in range(256)]
VOCABULARY = SPECIAL + RAW_BYTES + ["\u2581" + word for word in WORDS] + list("etaoinshrdlu .,")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
CALL = "<tool_call>\n{"
TEMPLATE_OF_CALLS = """\
{%- if tools %}<|im_start|>system
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{%- if m.content %}
{{ m.content }}
{%- endif %}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def add_shape(out: gguf.GGUFWriter, words: int) -> None:
    out.add_context_length(CONTEXT_TOKENS)
    out.add_embedding_length(EMBEDDING)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(FEED_FORWARD)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(EMBEDDING // HEADS)
    out.add_vocab_size(words)
    out.add_file_type(0)


def add_tokenizer(out: gguf.GGUFWriter, calls: bool) -> None:
    kind = gguf.TokenType
    kinds = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * len(RAW_BYTES)
    out.add_tokenizer_model("llama")
    own = [CALL] if calls else []
    kinds += [kind.NORMAL] * (len(VOCABULARY) - len(kinds)) + [kind.USER_DEFINED] * len(own)
    out.add_token_list(VOCABULARY + own)
    out.add_token_scores([0.0] * len(kinds))
    out.add_token_types(kinds)
    out.add_bos_token_id(SPECIAL.index("<s>"))
    out.add_eos_token_id(SPECIAL.index("</s>"))
    out.add_unk_token_id(SPECIAL.index("<unk>"))
    out.add_chat_template(TEMPLATE_OF_CALLS if calls else TEMPLATE)
    if calls:
        out.add_add_space_prefix(False)  # the grammar for calls begins with the template's text


def add_weights(out: gguf.GGUFWriter, words: int, ends: bool, calls: bool) -> None:
    dice = np.random.default_rng(7)

    def random(*shape: int, spread: float = 0.1) -> np.ndarray:
        return (dice.standard_normal(shape) * spread).astype(np.float32)

    ones = np.ones(EMBEDDING, np.float32)
    embedding = random(words, EMBEDDING, spread=0.5)
    if calls:
        embedding[:, 0] = 3  # the same for each word, so that the head can prefer one
    out.add_tensor("token_embd.weight", embedding)
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
    head = random(words, EMBEDDING, spread=0.5)
    end = head[SPECIAL.index("</s>")].copy()
    head[: len(SPECIAL) + len(RAW_BYTES)] *= 0.01  # words are far likelier than raw bytes or an early end
    if calls:
        head[-1, 0] = 9
        head[SPECIAL.index("</s>"), 0] = 10 if ends else -9
    elif ends:
        head[SPECIAL.index("</s>")] = end
    out.add_tensor("output.weight", head)


def main(path: str, ends: bool, calls: bool) -> None:
    out = gguf.GGUFWriter(path, "llama")
    words = len(VOCABULARY) + calls
    add_shape(out, words)
    add_tokenizer(out, calls)
    add_weights(out, words, ends, calls)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    main(sys.argv[1], "--ends" in sys.argv[2:], "--calls" in sys.argv[2:])
