import re
from typing import get_args

from gatepass.config.checks import unsafe_settings
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
