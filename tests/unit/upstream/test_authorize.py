import pytest

from gatepass.call import Secret
from gatepass.upstream.authorize import Bearer, bearer


def test_token_is_shown_as_a_bearer():
    assert bearer(Secret("ragflow-abc~.+/=")) == (b"authorization", b"Bearer ragflow-abc~.+/=")


def test_token_is_read_afresh_each_time():
    values = iter(["one", "two"])
    secret = Secret(lambda: next(values))
    assert [bearer(secret)[1], bearer(secret)[1]] == [b"Bearer one", b"Bearer two"]


@pytest.mark.parametrize("value", ["", "a b", "a\r\nx: y", "tokén", "a\x00", "a\x7f", "a\ud800"])
def test_token_that_no_field_can_hold_is_refused_without_being_told(value):
    with pytest.raises(ValueError) as raised:
        bearer(Secret(value))
    assert str(raised.value) == "the token is empty or holds a blank, a line break or a character beyond ASCII"
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_a_bearer_field_is_made_once_for_a_token_and_anew_for_the_next():
    first, second = Secret("first-token"), Secret("second-token")
    kept = Bearer()
    made = kept.field(first)
    assert made == (b"authorization", b"Bearer first-token")
    assert kept.field(first) is made
    assert kept.field(second) == (b"authorization", b"Bearer second-token")
    assert "token" not in repr(kept)


def test_a_token_that_no_header_can_hold_leaves_no_other_one_in_its_place():
    kept = Bearer()
    kept.field(Secret("first-token"))
    for _ in range(2):
        with pytest.raises(ValueError):
            kept.field(Secret("two words"))
