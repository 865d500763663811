"""One fact, one place: every part that acts on a word of the lexicon acts on all of its kind."""

from __future__ import annotations

import pytest

from gatepass import errors, types
from gatepass.config.network import checked_fields
from gatepass.config.upstream import NEVER_FORWARDED
from gatepass.dialects.base import ResponseHeaders, forwarded
from gatepass.dialects.error_body import STATUS_OF_CODE
from gatepass.errors import UpstreamErrorReply
from gatepass.learning.rejection import NEVER_CODES
from gatepass.operations import error_objects
from gatepass.operations.error_objects import error_headers, stream_message
from gatepass.operations.request import safe_headers


@pytest.mark.parametrize("code", sorted(errors.FINAL_CODES))
def test_a_final_code_has_a_status_teaches_nothing_and_is_not_repeated(code):
    assert STATUS_OF_CODE[code] == (429 if code in errors.OVER_QUOTA else 400)
    assert code in NEVER_CODES
    error = UpstreamErrorReply("no", upstream="chat", status=429, upstream_code=code)
    assert (b"x-should-retry", b"false") in error_headers(error)


@pytest.mark.parametrize("name", sorted(types.HOP_BY_HOP))
def test_a_field_of_one_hop_crosses_in_no_direction_and_is_set_by_nobody(name):
    field = (name, b"v")
    assert safe_headers((field,)) == ()
    assert forwarded((field,), [name.decode()]) == ()
    assert ResponseHeaders([name.decode()]).select((field,)) == []
    with pytest.raises(ValueError, match="cannot be set"):
        checked_fields([name.decode()])


@pytest.mark.parametrize("name", sorted(types.CREDENTIALS))
def test_a_clients_credential_goes_nowhere(name):
    assert safe_headers(((name, b"v"),)) == ()
    assert forwarded(((name, b"v"),), [name.decode()]) == ()
    assert name.decode() in NEVER_FORWARDED


@pytest.mark.parametrize("word", error_objects.REPLAYED.pattern.split("|"))
def test_a_word_that_makes_ragflow_begin_again_ends_no_stream(word):
    text = f"The {word.title()}!"
    assert not error_objects.REPLAYED.search(
        stream_message(UpstreamErrorReply(text, upstream="chat", status=400)).lower()
    )
