"""The `openai` client for Python, 1.x to 3.x, with whatever comes held against its own types, strictly.

The calls on stdin are those of the table of quirks, `{"model", "mode", "body"}`; for each goes
`{"error", "invalid", "checked"}` to stdout: the class of its error, all that is not as a type says, and how many
answers, chunks and errors were held.
"""

from __future__ import annotations

import faulthandler
import json
import sys
from collections.abc import Iterator
from typing import Any

from harness import STUCK_S, TIMEOUT_S
from openai import OpenAI
from reply_validation import ReplyRecorder

Call = dict[str, Any]
recorder = ReplyRecorder()
client = OpenAI(max_retries=0, timeout=TIMEOUT_S, http_client=recorder.client)


def answers(call: Call) -> Iterator[Any]:
    """What the SDK makes of the answer to `call`, piece by piece."""
    rest = dict(call["body"])
    if call["mode"] == "embed":
        yield client.embeddings.create(model=call["model"], input=rest.pop("input"), extra_body=rest)
        return
    request: Any = {"model": call["model"], "messages": rest.pop("messages"), "extra_body": rest}
    if call["mode"] == "plain":
        yield client.chat.completions.create(**request)
    elif call["mode"] == "raw":
        with client.chat.completions.create(**request, stream=True) as chunks:
            yield from chunks
    else:
        with client.chat.completions.stream(**request) as stream:
            yield from stream
            yield stream.get_final_completion()


def validate_call(call: Call) -> dict[str, Any]:
    error = None
    try:
        for _ in answers(call):
            pass
    except Exception as raised:  # noqa: BLE001 - whatever comes out of the client is the finding
        error = type(raised).__name__
    faults_of_replies = recorder.faults()
    return {
        "error": error,
        "invalid": [fault for faults in faults_of_replies for fault in faults],
        "checked": len(faults_of_replies),
    }


if __name__ == "__main__":
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    json.dump([validate_call(call) for call in json.load(sys.stdin)], sys.stdout)
