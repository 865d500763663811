import pytest

from gatepass.errors import ModelNotFound
from gatepass.upstream.segment import segment


@pytest.mark.parametrize(
    ("name", "written"),
    [("gpt-4o", "gpt-4o"), ("a/../b", "a%2F..%2Fb"), ("a?b#c d", "a%3Fb%23c%20d"), ("ä", "%C3%A4"), ("...", "...")],
)
def test_a_name_is_one_segment_whatever_it_holds(name, written):
    assert segment(name) == written


def test_half_a_surrogate_is_no_crash():
    assert segment("a\ud800") == "a%3F"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_what_can_be_no_segment_is_no_model(name):
    with pytest.raises(ModelNotFound) as caught:
        segment(name)
    assert (caught.value.message, caught.value.param) == (
        f"The upstream can have no model of the name {name!r}.",
        "model",
    )
