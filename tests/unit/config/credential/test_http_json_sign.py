from __future__ import annotations

from typing import Any

import pytest

from gatepass.config.credential.http_json import (
    HttpJsonCredential,
    names_in,
    with_values,
    with_values_in,
)
from gatepass.config.references import Reference
from tests.unit.config.credential.refused import refused

URL = {"type": "http_json", "url": "https://portal.example/login"}
KNOWN = "{body}, {body_sha256}, {method}, {nonce}, {path}, {time}, {timestamp}, {timestamp_ms}"


def sign(text: str = "{timestamp}", **more: Any) -> dict[str, Any]:
    return {"secret": "hmac-secret", "text": text, **more}


def reported(**block: Any) -> str:
    return refused(**URL, **block)["sign.text"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{a}\n{b.c}{X-D}", ["a", "b.c", "X-D"]),
        ('{"a": "{b}"}', ["b"]),
        ("{} {1} {a b} {-}", []),
        ("{timestamp:number}", []),
    ],
)
def test_name_in_braces_is_a_placeholder(text, names):
    assert names_in(text) == names


def test_placeholders_inside_values_are_not_replaced():
    assert with_values("{a}{b}{c}", {"a": "{b}", "b": "{a}"}) == "{b}{a}{c}"


def test_a_json_body_is_filled_at_every_depth_and_a_time_may_be_a_number():
    document = {"a": ["{timestamp}", "{timestamp:number}", {"b": "x{nonce}"}], "n": 5, "t": ("{timestamp_ms:number}",)}
    values = {"timestamp": "18", "timestamp_ms": "18000", "nonce": "n"}
    assert with_values_in(document, values) == {"a": ["18", 18, {"b": "xn"}], "n": 5, "t": [18000]}
    assert with_values_in("{timestamp:number}", {}) == "{timestamp:number}"


@pytest.mark.parametrize(
    "block",
    [
        {"json": {"app_id": "x", "sign": "{signature}"}, "sign": sign("{app_id}\n{timestamp}\n{nonce}")},
        {"query": {"k": "x", "s": "{signature}"}, "sign": sign("{k}{method}{path}")},
        {"form": {"k": "x"}, "headers": {"X-App": "y", "X-Sign": "v1={signature}"}, "sign": sign("{X-App}{k}{body}")},
        {"json": {"a": [{"b": "{signature}"}]}, "sign": sign("{time}")},
    ],
)
def test_a_signed_request_may_name_all_that_it_sends(block):
    HttpJsonCredential.model_validate({**URL, **block})


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            {"json": {"s": "{signature}"}, "sign": sign("{app}{timestamp}{app}")},
            f"contains {{app}}, which is neither a member of query, form, json or headers nor one of {KNOWN}",
        ),
        (
            {"json": {"app": "{signature}"}, "sign": sign("{app}")},
            f"contains {{app}}, which is neither a member of query, form, json or headers nor one of {KNOWN}",
        ),
        (
            {"json": {"s": "{signature}"}, "sign": sign("{signature}")},
            "holds {signature}, but it is the text that is signed",
        ),
        (
            {"json": {"s": "{signatur}"}, "sign": sign()},
            "is never sent: put {signature} into headers, query, form or json",
        ),
        (
            {"json": [{"s": "{signature}"}], "sign": sign("{body_sha256}")},
            "signs a body that holds {signature}: put {signature} into headers or query",
        ),
        ({"json": {"s": "{signature}"}, "sign": sign("")}, "is empty"),
    ],
)
def test_a_signature_that_cannot_work_is_refused(block, text):
    assert reported(**block) == text


def test_a_secret_that_cannot_be_read_while_it_is_replaced_is_no_fault_of_the_signature(tmp_path):
    file = tmp_path / "key"
    file.write_text("value")
    key = Reference.to_file(str(file))
    file.unlink()
    block = {"headers": {"X-Key": key, "X-Sign": "{signature}"}, "json": ["x"], "sign": sign()}
    HttpJsonCredential.model_validate({**URL, **block})


def test_the_algorithm_is_one_of_three_and_the_secret_prints_nowhere():
    assert refused(**URL, sign={**sign(), "algorithm": "md5"})["sign.algorithm"].startswith("'md5' is not known here")
    block = {"json": {"s": "{signature}"}, "sign": sign()}
    settings = HttpJsonCredential.model_validate({**URL, **block})
    assert "hmac-secret" not in f"{settings!r}{settings.model_dump()}{settings.model_dump_json()}"
