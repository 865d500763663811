from __future__ import annotations

import pytest

from gatepass.tokens.issuer_error import (
    MAX_MESSAGE_CHARS,
    NotJson,
    TokenResponse,
    is_html,
    one_line,
    page_title,
    parse_json_text,
    retry_after_s,
)
from tests.unit.tokens.scripted import timed_response

NOW = 1_800_000_000.0
"""Fri, 15 Jan 2027 08:00:00 GMT."""


def test_a_reply_prints_neither_headers_nor_body():
    assert repr(TokenResponse(200, ((b"x-subject-token", b"t0ken"),), b"t0ken")) == "TokenResponse(status=200)"


@pytest.mark.parametrize(
    ("value", "kind"),
    [(b"application/json", "application/json"), (b" Text/HTML; charset=utf-8", "text/html"), (b"", "")],
)
def test_content_type_is_read_without_its_parameters(value, kind):
    assert TokenResponse(200, ((b"content-type", value),)).content_type == kind
    assert TokenResponse(200).content_type == ""


def test_text_drops_a_byte_order_mark_and_survives_foreign_bytes():
    assert TokenResponse(200, (), b"\xef\xbb\xbfa\xff").text == "a\ufffd"


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a": Infinity}', "[" * 60_000, "1" * 60_000])
def test_text_that_is_not_json_is_refused(text):
    with pytest.raises(NotJson):
        parse_json_text(text)


def test_a_document_is_read():
    assert parse_json_text(' {"a": [1, null]} ') == {"a": [1, None]}


@pytest.mark.parametrize(
    ("reply", "html"),
    [
        (TokenResponse(200, ((b"content-type", b"text/html"),), b"x"), True),
        (TokenResponse(200, (), b"\n <!DOCTYPE HTML><p>"), True),
        (TokenResponse(200, (), b"<HTML>"), True),
        (TokenResponse(200, (), b"<?xml version='1.0'?>"), False),
    ],
)
def test_a_page_is_known_by_its_type_or_its_start(reply, html):
    assert is_html(reply) is html


def test_a_pages_title_is_found_near_its_start():
    assert page_title("<html><TITLE lang=en>Sign in</TITLE>") == "Sign in"
    assert page_title("<title>" * 10_000) is None
    assert page_title(" " * 5000 + "<title>late</title>") is None


def test_white_space_is_folded_and_what_cannot_be_printed_removed():
    assert one_line(" a\r\n\tb\x1b[2Jc\x00 \u200b d ", str) == "a b [2Jc d"


def test_long_messages_are_cut():
    line = one_line("x" * 5000, str)
    assert line == "x" * (MAX_MESSAGE_CHARS - 1) + "…"


def test_secrets_are_masked_before_the_cut():
    text = "x" * (MAX_MESSAGE_CHARS - 5) + " hunter2hunter2"
    assert "hunt" not in one_line(text, lambda it: it.replace("hunter2hunter2", "***"))


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ((), None),
        (((b"retry-after", b"7"),), 7.0),
        (((b"retry-after", b" 2.5 "),), 2.5),
        (((b"retry-after", b"-3"),), 0.0),
        (((b"retry-after", b"soon"),), None),
        (((b"retry-after", b"Fri, 15 Jan 2027 08:00:30 GMT"),), 30.0),
        (((b"retry-after", b"Fri, 15 Jan 2027 08:00:30 GMT"), (b"date", b"Fri, 15 Jan 2027 08:00:20 GMT")), 10.0),
        (((b"retry-after", b"Fri, 15 Jan 2027 07:00:30 GMT"),), 0.0),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(headers, wait_s):
    assert retry_after_s(timed_response(429, headers, wall_s=NOW), is_long=True) == wait_s
