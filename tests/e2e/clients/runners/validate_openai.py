"""Validate what the `openai` client for Python, 1.x to 3.x, receives against its own types, strictly.

stdin contains the calls of the table of quirks, or of responses: `{"model", "mode", "body"}`. stdout gets
`{"error", "invalid", "checked"}` for each call: the class of the error, the differences from the types, and the number
of validated replies, chunks and errors.
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
    """Yield what the SDK returns for `call`."""
    rest = dict(call["body"])
    if call["mode"] == "respond":
        answer: Any = client.responses.create(model=call["model"], **rest)
        yield from answer if rest.get("stream") else (answer,)
        return
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
    except Exception as raised:  # noqa: BLE001 - every exception of the client is a result
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
