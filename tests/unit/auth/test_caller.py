"""The caller of a key: what the path of a request knows of the configuration's entry."""

from msgspec.structs import replace

from gatepass.auth.caller import Caller, callers_of_rows
from gatepass.config.access import Access, AccessKey
from gatepass.config.checks import OF_CALLER

HASH = "sha256:" + "0badc0de" * 8


def test_a_caller_has_the_settings_that_all_its_keys_share_and_no_secret():
    limits = {"requests": {"minute": 5}}
    settings = {
        "role": "admin",
        "models": ["gpt-*"],
        "operations": ["chat"],
        "mcp": {"wiki": ["find"]},
        "profile": "dify",
        "group": "teams",
        "limits": limits,
        "end_users": {"limits": limits},
        "weight": 3,
    }
    key = AccessKey.model_validate({"name": "app", "hash": HASH, "expires": "2027-01-31", **settings})
    caller = Caller.of_key(key)
    shared = {name: getattr(caller, name) for name in settings}
    assert shared == {name: getattr(key, name) for name in OF_CALLER}
    assert (caller.identity, caller.name, caller.key_id, caller.expires) == ("app", "app", "0badc0de", key.expires)
    assert set(Caller.__struct_fields__) == {
        *("identity", "name", "key_id", "is_of_row", "user", "expires", "is_only"),
        *OF_CALLER,
    }
    assert HASH[15:] not in repr(caller)


def test_a_caller_of_a_row_has_its_settings_and_an_identity_of_its_own():
    row = {"claim": "roles", "contains": "user", "group": "people", "weight": 3}
    issuer = {
        "issuer": "https://login.corp.example",
        "audience": "api://gp",
        "callers": [{**row, "name": "a"}, {**row, "name": "b"}],
    }
    access = Access.model_validate({"jwt": [issuer]})
    first, second = callers_of_rows(access)
    assert (first.name, second.name, first.group, first.weight, first.is_of_row) == ("a", "b", "people", 3, True)
    assert (first.setting, Caller("app", "app").setting) == ("access.jwt[].callers[]", "access.keys[]")
    zoe, yan = (Caller.of_row(access.jwt[0].callers[0], identity, "zoe@corp") for identity in ("jwt:1", "jwt:2"))
    assert zoe == replace(yan, identity="jwt:1") == replace(first, identity="jwt:1", user="zoe@corp")


def test_a_caller_without_settings_is_that_of_a_key_without_them():
    assert Caller.of_key(AccessKey(name="app", hash=HASH)) == Caller("app", "app", "0badc0de")
