"""Every part that uses a list of codes or header fields of `errors` and `types` handles all of its entries."""

from __future__ import annotations

import pytest

from gatepass import types
from gatepass.config.network import checked_fields
from gatepass.config.upstream import NEVER_FORWARDED
from gatepass.dialects.base import ResponseHeaders, forwarded
from gatepass.dialects.error_body import STATUS_OF_CODE
from gatepass.errors import UpstreamErrorReply
from gatepass.learning.rejection import NEVER_CODES
from gatepass.protocols import error_objects
from gatepass.protocols.error_objects import error_headers, stream_message
from gatepass.protocols.request import safe_headers


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
    assert ResponseHeaders([name.decode()]).select((field,)) == []
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
