"""Ask all models at once with a Python SDK and its own retries, and print the exception of each one as JSON.

The arguments are the package, `openai` or `anthropic`, and the models. A model that answers has "". The base URL and
the key come from the environment.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PACKAGE, *MODELS = sys.argv[1:]
ASKED: Any = [{"role": "user", "content": "Hi"}]


def caller() -> Any:
    if PACKAGE == "anthropic":
        import anthropic

        client = anthropic.Anthropic()
        return lambda model: client.messages.create(model=model, messages=ASKED, max_tokens=64).content[0].text
    import openai

    chats = openai.OpenAI().chat.completions
    return lambda model: chats.create(model=model, messages=ASKED).choices[0].message.content


ask = caller()


def outcome(model: str) -> str:
    try:
        return "" if ask(model) else "no text"
    except Exception as error:  # noqa: BLE001 - every exception of the client is an outcome
        return type(error).__name__


with ThreadPoolExecutor(len(MODELS)) as pool:
    json.dump(dict(zip(MODELS, pool.map(outcome, MODELS), strict=True)), sys.stdout)
