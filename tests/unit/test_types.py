import copy
import gc
import json
import math
import pickle
import weakref
from typing import Any

import msgspec
import pytest

from gatepass import types
from gatepass.config.network import checked_fields
from gatepass.config.upstream import NEVER_FORWARDED
from gatepass.dialects.base import ResponseHeaders, forwarded
from gatepass.errors import UpstreamErrorReply
from gatepass.json_body import TopLevel
from gatepass.learning.pointing import NEVER_CODES
from gatepass.protocols import error_objects
from gatepass.protocols.error_objects import error_headers, stream_message
from gatepass.protocols.request import safe_headers
from gatepass.replies.error_body import STATUS_OF_CODE
from gatepass.types import Call, Operation, OutboundRequest, Secret


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
        "names_stored": True,
        "declared_length": (8, "models.m.capabilities.dimensions"),
        "top": TopLevel(b"{}"),
    }
    assert set(values) == set(Call.__struct_fields__)
    call = Call(**values)
    assert call.with_body(b"b", choices=3) == msgspec.structs.replace(call, body=b"b", top=None, choices=3)
    assert call.with_body(call.body) == call


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


@pytest.mark.parametrize("code", sorted(types.FINAL_CODES))
def test_a_final_code_has_a_status_and_causes_neither_a_rule_nor_a_retry(code):
    assert STATUS_OF_CODE[code] == (429 if code in types.OVER_QUOTA else 400)
    assert code in NEVER_CODES
    error = UpstreamErrorReply("no", upstream="chat", status=429, upstream_code=code)
    assert (b"x-should-retry", b"false") in error_headers(error)


@pytest.mark.parametrize("name", sorted(types.HOP_BY_HOP))
def test_a_hop_by_hop_field_is_never_forwarded_relayed_or_configured(name):
    field = (name, b"v")
    assert safe_headers((field,)) == ()
    assert forwarded((field,), [name.decode()]) == ()
    assert ResponseHeaders(is_of_mcp=True).select((field,)) == []
    with pytest.raises(ValueError, match="cannot be set"):
        checked_fields([name.decode()])


@pytest.mark.parametrize("name", sorted(types.CREDENTIALS))
def test_a_credential_of_the_client_is_never_forwarded(name):
    assert safe_headers(((name, b"v"),)) == ()
    assert forwarded(((name, b"v"),), [name.decode()]) == ()
    assert name.decode() in NEVER_FORWARDED


@pytest.mark.parametrize("word", error_objects.REPLAYED.pattern.split("|"))
def test_no_stream_error_contains_a_word_that_ragflow_retries(word):
    text = f"The {word.title()}!"
    assert not error_objects.REPLAYED.search(
        stream_message(UpstreamErrorReply(text, upstream="chat", status=400)).lower()
    )


@pytest.mark.parametrize(
    ("wait_s", "text"),
    [(0.2, "1 s"), (12.0, "12 s"), (99.0, "99 s"), (99.5, "2 min"), (429.0, "8 min"), (5_941.0, "2 h"), (1e12, "99 d")],
)
def test_a_wait_has_two_digits_at_most(wait_s, text):
    assert types.wait_text(wait_s) == text


def test_a_wait_without_an_end_is_a_text():
    assert types.wait_text(math.inf) == "99 d"
