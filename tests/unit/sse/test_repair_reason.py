"""Finish reasons of upstreams become finish reasons of OpenAI."""

import pytest

from gatepass.sse.choice_repair import chat_reason, standard_reason

STOPS: list[object] = [None, "", 1, [], "eos", "eos_token", "end_turn", "STOP", "stop_sequence"]


@pytest.mark.parametrize(
    ("payload", "meant"),
    [
        *[(word, "stop") for word in STOPS],
        *[(word, "length") for word in ("max_tokens", "MAX_TOKENS", "insufficient_system_resource", "abort", "error")],
        *[(word, "length") for word in ("model_context_window_exceeded", "pause_turn", "max_output_tokens")],
        *[(word, "content_filter") for word in ("SAFETY", "sensitive", "content_filtered", "guardrail_intervened")],
        ("OTHER", "OTHER"),
        ("a_word_of_tomorrow", "a_word_of_tomorrow"),
    ],
)
def test_finish_reasons_of_other_upstreams_are_translated(payload, meant):
    assert chat_reason(payload, has_tools=False, has_function=False) == meant
    assert standard_reason(payload, is_text=True)[0] == meant
