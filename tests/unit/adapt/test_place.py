"""Places: how they are written, and what they lead to."""

import pytest

from gatepass.adapt.draft import Draft
from gatepass.adapt.place import Place
from tests.unit.adapt.calls import a_call

BODY = b'{"a":1,"o":{"p":{"q":2}},"l":[{"n":1,"m":[{"k":1},{"k":2}]},5,{"n":3}],"s":"x"}'


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("a", [b"1"]),
        ("o.p.q", [b"2"]),
        ("l[].n", [b"1", b"3"]),
        ("l[].m[].k", [b"1", b"2"]),
        ("l.n", []),
        ("o[].p", []),
        ("s.x", []),
        ("z.y", []),
        ("z[].y", []),
    ],
)
def test_a_place_leads_to_every_object_that_has_it(written, found):
    place, draft = Place.parse(written), Draft(a_call(BODY))
    assert [owner.text(place.name) for owner in place.owners(draft)] == found
    assert str(place) == written
    assert Place.is_one(written)


def test_objects_that_are_missing_on_the_way_are_made_where_asked():
    draft = Draft(a_call(BODY))
    for written in ("z.y.x", "l[].new.k", "none[].k"):
        for owner in Place.parse(written).owners(draft, make=True):
            owner.set(Place.parse(written).name, b"1")
    assert draft.top.value("z") == {"y": {"x": 1}}
    assert draft.top.value("l")[2] == {"n": 3, "new": {"k": 1}}
    assert "none" not in draft.top


@pytest.mark.parametrize("written", ["", ".", "a.", ".a", "a[]", "a[0].b", "a b", "1a", "a..b", "a" * 65, "é", "a\n"])
def test_what_is_no_place_is_refused(written):
    with pytest.raises(ValueError, match="expects the name of a member"):
        Place.parse(written)
