from __future__ import annotations

from gatepass.demo.voice import Voice


def test_what_was_hidden_is_not_said():
    said: list[str] = []
    voice = Voice(said.append)
    voice("abc")
    voice.hide("b", "c")
    voice("abcd")
    assert said == ["abc", "a(hidden)(hidden)d"]
