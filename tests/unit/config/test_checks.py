import re
from typing import get_args

from gatepass.config.checks import problems, unsafe_settings
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.model import URLS, Config
from gatepass.config.references import Reference

UPSTREAMS = {"upstreams": {"u": {"base_url": "https://u.example/v1"}}}


def test_every_url_of_a_credential_is_checked_for_plain_http():
    settings = [
        (name, repr(field.rebuild_annotation()))
        for block in get_args(get_args(AnyCredential)[0])
        for name, field in block.model_fields.items()
    ]
    urls = {name for name, annotation in settings if re.search(r"\bchecked_(?:base_)?url\b", annotation)}
    assert urls == {*URLS} - {"base_url"}


def test_each_key_of_a_file_is_checked():
    def faults(text):
        keys = [{"name": "a", "key": Reference.to_variable("K", text)}]
        return [path for path, _ in unsafe_settings(Config.model_validate({**UPSTREAMS, "access": {"keys": keys}}))]

    assert faults("0123456789abcdef\nfedcba9876543210") == []
    assert faults(" \n") == [("access", "keys", 0, "key")]


def test_a_key_beside_a_row_of_its_name_says_what_to_do():
    row = {"claim": "sub", "equals": "me", "name": "people", "group": "people"}
    jwt = {"issuer": "https://sso.corp.example", "audience": "a", "callers": [row]}
    tree = {
        "upstreams": {"chat": {"base_url": "https://llm.example/v1"}},
        "access": {
            "groups": {"people": {"limits": {"max_concurrent": 4}}},
            "keys": [{"name": "people", "hash": f"sha256:{'1' * 64}"}],
            "jwt": [jwt],
        },
    }
    ((path, text),) = problems(Config.model_validate(tree))
    assert path == ("access", "jwt", 0, "callers", 0, "group")
    assert text.endswith("metrics know both by this name: rename one of them, or write the same group at both")
