"""A random model for vLLM (`vllm_scripted.py DIRECTORY`), and a logits processor that makes vLLM say a chosen text.

Where a prompt has SCRIPT:NAME, vLLM says SCRIPTS/NAME.txt token by token; SCRIPTS is in the environment. The engine,
the parsers of tools and thoughts and the HTTP server are its own. It runs in the Python that has vLLM and torch.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

MARKS = (
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    *("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
)
WORDS = "hello the a of and to in is you that it for on with as be this at or from say what user system weather city"
TEMPLATE = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{% if m['content'] is string %}{{ m['content'] }}{% elif m['content'] %}{% for p in m['content'] %}\
{{ p['text'] if p['type'] == 'text' else '' }}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def write_model(folder: str) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([WORDS] * 50, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|im_end|>", pad_token="</s>"
    )
    fast.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    write_model(sys.argv[1])
else:
    from transformers import AutoTokenizer
    from vllm.v1.sample.logits_processor import LogitsProcessor

    class Scripted(LogitsProcessor):
        def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
            self.tokenizer = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)
            self.rows: dict[int, tuple[list[int], Any]] = {}

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch: Any) -> None:
            for index in batch.removed if batch else ():
                self.rows.pop(index, None)
            for index, _, prompt, said in batch.added if batch else ():
                self.rows.pop(index, None)
                if names := re.findall(r"SCRIPT:(\w+)", self.tokenizer.decode(prompt or [])):
                    text = Path(os.environ["SCRIPTS"], f"{names[-1]}.txt").read_text(encoding="utf-8")
                    ids = self.tokenizer.encode(text, add_special_tokens=False)
                    self.rows[index] = ([*ids, self.tokenizer.eos_token_id], said)
            for one, other, way in batch.moved if batch else ():
                first, second = self.rows.pop(one, None), self.rows.pop(other, None)
                if first:
                    self.rows[other] = first
                if second and "SWAP" in str(way):
                    self.rows[one] = second

        def apply(self, logits: Any) -> Any:
            for index, (ids, said) in self.rows.items():
                logits[index] = -1e4
                logits[index, ids[min(len(said), len(ids) - 1)]] = 10.0
            return logits
