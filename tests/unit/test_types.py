import copy
import gc
import json
import pickle
import weakref
from typing import Any

import msgspec
import pytest

from gatepass.types import Call, Operation, OutboundRequest, RuleEdits, Secret


def test_a_secret_is_not_printed():
    secret = Secret("hunter2-hunter2")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{[secret]}", f"{ {'a': secret} }"]
    assert not [text for text in shown if "hunter2" in text]


def test_a_secret_cannot_be_pickled_copied_or_encoded():
    with pytest.raises(TypeError):
        pickle.dumps(Secret("hunter2"))
    with pytest.raises(TypeError):
        copy.copy(Secret("hunter2"))
    with pytest.raises(TypeError):
        json.dumps(Secret("hunter2"))


def test_a_call_with_another_body_is_the_same_call_in_everything_else():
    """Every field differs from its default, so that a forgotten field fails the test."""
    operation = Operation("chat", "POST", "/chat/completions", "chat", "Answer")
    values: dict[str, Any] = {
        "id": "1",
        "operation": operation,
        "caller": "c",
        "model": "m",
        "body": b"a",
        "headers": ((b"x", b"y"),),
        "stream": True,
        "choices": 2,
        "adapted": ("a",),
        "max_inputs": 3,
        "edits": RuleEdits(left_out=1),
        "without": ("images",),
        "lacks_words": True,
    }
    assert set(values) == set(Call.__struct_fields__)
    call = Call(**values)
    assert call.with_body(b"b", "e", "f") == msgspec.structs.replace(call, body=b"b", adapted=("a", "e", "f"))
    assert call.with_body(b"a") == call


class Sender:
    """Keeps the request that calls it before it is sent, as a transport with a log would."""

    def __init__(self) -> None:
        self.request = OutboundRequest("POST", "https://llm.example/v1/models", reauthorize=self.current)

    def current(self) -> None:
        return None


def test_a_request_that_refers_back_to_its_sender_is_freed():
    sender = weakref.ref(Sender())
    gc.collect()
    assert sender() is None
