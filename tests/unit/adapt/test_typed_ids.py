"""Model names that tell RAGFlow what a model is."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.adapt.changes.change import revised
from gatepass.adapt.typed_ids import UntypedModel, guessed, typed, untyped
from gatepass.config.rules import Kind
from tests.unit.adapt.calls import a_call


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("bge-reranker-v2-m3", "rerank"),
        ("text-embedding-3-small", "embedding"),
        ("BGE-m3", "embedding"),
        ("whisper-1", "asr"),
        ("gpt-4o-transcribe", "asr"),
        ("gpt-4o-mini-tts", "tts"),
        ("gpt-4o-240806", "vision"),
        ("Qwen2.5-VL-7B", "vision"),
        ("o3-mini", "chat"),
    ],
)
def test_a_name_is_read_as_ragflow_reads_it(model, kind):
    assert guessed(model) == kind
    assert typed(model, kind) == model


@pytest.mark.parametrize(
    ("model", "kind", "listed"),
    [
        ("corp-vectors", "embedding", "corp-vectors___embedding"),
        ("corp-order", "rerank", "corp-order___rerank"),
        ("corp-eyes", "vision", "corp-eyes___vision"),
        ("corp-ears", "asr", "corp-ears___whisper"),
        ("corp-voice", "tts", "corp-voice___tts"),
        ("gpt-4o", "chat", "gpt-4o"),
        ("embedded-eyes", "vision", "embedded-eyes"),
    ],
)
def test_a_name_that_tells_nothing_gets_a_suffix_where_that_helps(model, kind, listed):
    assert typed(model, kind) == listed


@given(st.text(min_size=1, max_size=20), st.sampled_from(get_args(Kind)))
def test_what_is_listed_is_understood(model, kind):
    assert untyped(typed(model, kind)) == untyped(model)


@pytest.mark.parametrize("model", ["a", "a___b", "___tts", "", "a__tts", "a___tts___x"])
def test_a_name_without_a_suffix_of_ours_stays(model):
    assert untyped(model) == model


@pytest.mark.parametrize("body", [b'{"model":"m"}', b"{}", b'{"model":1}'])
def test_a_body_without_such_a_name_is_the_same_object(body):
    call = a_call(body)
    assert revised(call, [UntypedModel()])[0] is call
