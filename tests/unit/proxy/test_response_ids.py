"""The ids that gatepass generates for replies that lack them."""

from gatepass.proxy.response import IdGenerator

OF_OPENAI_CHARS = 40


def test_ids_of_two_replies_differ():
    one, other = IdGenerator(), IdGenerator()
    made = [ids("call_") for ids in (one, other) for _ in range(50)]
    assert len(set(made)) == len(made)
    assert all(id_.startswith("call_") for id_ in made)


def test_an_id_is_within_the_limit_of_openai():
    ids = IdGenerator()
    made = [ids("call_") for _ in range(1000)]
    assert max(map(len, made)) <= OF_OPENAI_CHARS
