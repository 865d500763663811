import pytest

from gatepass.call import Secret
from gatepass.upstream.authorize import bearer


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
