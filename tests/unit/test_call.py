import copy
import json
import pickle

import pytest

from gatepass.call import Secret, header


def test_a_secret_prints_nowhere():
    secret = Secret("hunter2-hunter2")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{[secret]}", f"{ {'a': secret} }"]
    assert not [text for text in shown if "hunter2" in text]


def test_a_secret_does_not_leave_the_process():
    with pytest.raises(TypeError):
        pickle.dumps(Secret("hunter2"))
    with pytest.raises(TypeError):
        copy.copy(Secret("hunter2"))
    with pytest.raises(TypeError):
        json.dumps(Secret("hunter2"))


def test_a_secret_with_a_reader_is_read_afresh():
    values = iter(["old", "new"])
    secret = Secret(lambda: next(values))
    assert [secret.reveal(), secret.reveal()] == ["old", "new"]


def test_header_gives_the_first_value_or_none():
    headers = ((b"a", b"1"), (b"b", b"2"), (b"a", b"3"))
    assert header(headers, b"a") == b"1"
    assert header(headers, b"c") is None
