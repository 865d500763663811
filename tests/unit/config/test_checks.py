import re
from typing import get_args

from gatepass.config.checks import CARRIES_SECRETS, unsafe_settings
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.references import Reference


def test_every_url_of_a_credential_is_checked_for_plain_http():
    settings = [
        (name, repr(field.rebuild_annotation()))
        for block in get_args(get_args(AnyCredential)[0])
        for name, field in block.model_fields.items()
    ]
    urls = {name for name, annotation in settings if re.search(r"\bchecked_(?:base_)?url\b", annotation)}
    assert urls == {name for block, name in CARRIES_SECRETS if block == "credentials"}


def test_only_a_hash_is_the_hash_of_an_earlier_key():
    for text, paths in ((f"sha256:{'0' * 64}", [("access", "keys", 1, "hash")]), ("sha256:HASH", [])):
        tree = {"access": {"keys": [{"name": "a", "hash": text}, {"name": "b", "hash": text}]}}
        assert [path for path, _ in unsafe_settings(tree)] == paths


def test_each_key_of_a_file_is_checked():
    def faults(text):
        tree = {"access": {"keys": [{"name": "a", "key": Reference.to_variable("K", text)}]}}
        return [path for path, _ in unsafe_settings(tree)]

    place = ("access", "keys", 0, "key")
    assert faults("0123456789abcdef\nfedcba9876543210") == []
    assert faults(" \n") == [place]
