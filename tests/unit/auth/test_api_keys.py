import sys

import pytest

from gatepass.auth.api_keys import MAX_WRAPPED_CHARS, KeyRing, presented_keys, unwrapped_key
from gatepass.config.access import AccessKey, hash_key
from gatepass.config.references import Reference, UnresolvedReference
from gatepass.errors import InvalidApiKey
from gatepass.types import Secret

ONE, TWO, THREE = "gp-one-0123456789", "gp-two-0123456789", "gp-three-01234567"
WRAPPED = f'{{"api_key": "{ONE}", "is_tools": true}}'


def by_hash(name, key):
    return AccessKey(name=name, hash=hash_key(key))


def name_of(ring, key):
    found = ring.find(key)
    return found and found.name


def in_file(name, path):
    return AccessKey(name=name, key=Secret(Reference.to_file(str(path)).read))


@pytest.mark.parametrize(
    "presented", ["", " ", ONE + " ", ONE[:-1], "ключ", "\udcff", "\x00", hash_key(ONE), "x" * 100_000]
)
def test_unknown_key_has_no_entry(presented):
    assert KeyRing([by_hash("a", ONE)]).find(presented) is None
    assert KeyRing([]).find(presented) is None


def steps_of(ring, key):
    """The lines that `find` runs. A garbage collection in between may run callbacks of other packages."""
    lines = []

    def trace(frame, event, _):
        if event == "line" and frame.f_globals["__name__"].startswith("gatepass."):
            lines.append((frame.f_code.co_name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        ring.find(key)
    finally:
        sys.settrace(before)
    return lines


def test_the_steps_of_a_search_depend_neither_on_the_number_of_keys_nor_on_which_one_is_presented():
    many = KeyRing([by_hash(f"k{number}", f"gp-{number:017}") for number in range(2_000)])
    one = KeyRing([by_hash("a", ONE)])
    keys = [f"gp-{0:017}", f"gp-{1_999:017}", THREE]
    assert [entry and entry.name for entry in (many.find(key) for key in keys)] == ["k0", "k1999", None]
    found = [steps_of(many, key) for key in keys] + [steps_of(one, ONE)]
    assert found[0]
    assert found == [found[0]] * 4


def test_a_file_may_hold_several_keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"{ONE}\n{TWO}\n")
    entry = in_file("a", file)
    ring = KeyRing([entry])
    assert [name_of(ring, key) for key in (ONE, TWO, f"{ONE}\n{TWO}")] == ["a", "a", None]
    assert entry.texts == (ONE, TWO)
    assert by_hash("b", ONE).texts == ()


def test_missing_key_file_is_reported_at_the_start(tmp_path):
    key = AccessKey(name="a", key=Secret(lambda: Reference.to_file(str(tmp_path / "no"))))
    with pytest.raises(UnresolvedReference):
        KeyRing([key])


@pytest.mark.parametrize(
    ("headers", "keys"),
    [
        ([], []),
        ([("authorization", f"Bearer {ONE}")], [ONE]),
        ([("authorization", f"bEARER   {ONE}  ")], [ONE]),
        ([("x-api-key", ONE)], [ONE]),
        ([("api-key", f" {ONE}")], [ONE]),
        ([("authorization", f"Bearer {ONE}"), ("x-api-key", ONE), ("api-key", ONE), ("x-api-key", ONE)], [ONE]),
        ([("authorization", ""), ("x-api-key", ONE)], [ONE]),
        ([("authorization", "Bearer"), ("x-api-key", ONE)], [ONE]),
        ([("authorization", "Bearer "), ("x-api-key", "")], []),
        ([("authorization", "Bearer a b")], ["a b"]),
        ([("authorization", "Bearer \xff")], ["\xff"]),
        ([("x-other", ONE), ("proxy-authorization", f"Bearer {ONE}")], []),
        ([("authorization", f"Bearer {ONE}"), ("authorization", f"Bearer {TWO}"), ("api-key", ONE)], [ONE, TWO]),
        ([("authorization", f"Basic {ONE}"), ("x-api-key", TWO)], [TWO]),
    ],
)
def test_keys_are_read_from_every_supported_header(headers, keys):
    assert presented_keys(tuple((name.encode(), value.encode("latin-1")) for name, value in headers)) == keys


@pytest.mark.parametrize("value", [f"Basic {ONE}", ONE, f"Bearer{ONE}", f"Bearer\t{ONE}"])
def test_unknown_scheme_without_another_key_is_refused(value):
    with pytest.raises(InvalidApiKey) as caught:
        presented_keys(((b"authorization", value.encode()), (b"x-api-key", b"")))
    assert caught.value.http_status == 401
    assert ONE not in caught.value.message


def test_key_is_unwrapped_from_its_object_only():
    for presented, key in (
        ('{"is_tools": false, "api_key": " gp-1 "}', "gp-1"),
        ('{"api_key":"gp-1"}'.ljust(MAX_WRAPPED_CHARS), "gp-1"),
        ('{"api_key":"gp-1"}'.ljust(MAX_WRAPPED_CHARS + 1), None),
        *((other, None) for other in ("gp-1", "", "{", "{}", '{"api_key":" "}', '{"api_key":1}', '["gp-1"]')),
        ('{"a":' * 700, None),
    ):
        assert unwrapped_key(presented) == key, presented[:100]


def test_the_id_of_a_key_is_the_beginning_of_its_hash_also_of_one_in_a_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"{TWO} {THREE}")
    ring = KeyRing([by_hash("a", ONE), in_file("b", file)])
    assert [(key.name, key.id) for key in ring.known] == [
        (name, hash_key(key)[7:15]) for name, key in (("a", ONE), ("b", TWO), ("b", THREE))
    ]
    assert AccessKey.model_construct(name="local").id == ""


def test_a_ring_remembers_the_uses_of_the_keys_that_it_knows(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"{ONE} {TWO}")
    one, two = hash_key(ONE)[7:15], hash_key(TWO)[7:15]
    ring = KeyRing([in_file("a", file)])
    ring.keep_uses({one: 60.0, two: 90.0, "00000000": 120.0})
    assert ring.last_used_s == {one: 60.0, two: 90.0}
    assert [row.last_used for row in ring.rows(0.0)] == ["1970-01-01T00:01:00Z", "1970-01-01T00:01:30Z"]
