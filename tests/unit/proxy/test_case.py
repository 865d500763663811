"""What a judgement needs: ids of gatepass's own."""

from gatepass.proxy.response import NAME_BYTES, Ids

OF_OPENAI_CHARS = 40


def test_ids_of_two_replies_never_meet():
    one, other = Ids(), Ids()
    made = [ids("call_") for ids in (one, other) for _ in range(50)]
    assert len(set(made)) == len(made)
    assert all(id_.startswith("call_") for id_ in made)


def test_an_id_is_short_enough_to_come_back():
    ids = Ids()
    made = [ids("call_") for _ in range(1000)]
    assert max(map(len, made)) <= OF_OPENAI_CHARS


def test_the_first_id_is_a_plain_one():
    name = Ids()("chatcmpl-").removeprefix("chatcmpl-")
    assert len(bytes.fromhex(name)) == NAME_BYTES
