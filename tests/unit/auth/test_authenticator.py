"""Authentication by the head of a request alone."""

from contextlib import nullcontext
from datetime import UTC, datetime
from hashlib import sha256
from typing import cast

import pytest
from msgspec.structs import replace

from gatepass.auth.authenticator import LOCAL, Authenticator
from gatepass.auth.caller import Caller
from gatepass.auth.jwt_callers import JwtCallers
from gatepass.auth.model_access import check_calls_models, check_model_access
from gatepass.config.access import hash_key
from gatepass.config.model import Config
from gatepass.errors import ForbiddenOrigin, InvalidApiKey, NotAllowed, UnsupportedHead
from gatepass.types import ClientRequest

KEY = "gp-0123456789abcdef"
FORM = (b"content-type", b"multipart/form-data; boundary=b")
NOW_S = 1_800_000_000.0
HOST = (b"host", b"localhost:8080")


def authenticator(**blocks):
    return Authenticator(Config.model_validate({"upstreams": {"u": {"base_url": "https://u/v1"}}, **blocks}))


def keyed_config():
    keys = [{"name": "a", "hash": hash_key(KEY)}]
    return Config.model_validate({"upstreams": {"u": {"base_url": "https://u/v1"}}, "access": {"keys": keys}})


def keyed(profile=None, **blocks):
    entry = {
        "name": "a",
        "hash": f"sha256:{sha256(KEY.encode()).hexdigest()}",
        **({} if profile is None else {"profile": profile}),
    }
    return authenticator(access={"keys": [entry]}, **blocks)


def asked(*headers):
    return ClientRequest("id", "POST", "/v1/files", headers, "127.0.0.1", 0.0)


@pytest.mark.parametrize("site", [None, b"none", b"same-origin"])
def test_local_form_is_accepted_without_keys(site):
    more = () if site is None else ((b"sec-fetch-site", site),)
    assert authenticator().authenticate(asked(HOST, FORM, *more), NOW_S, takes_form=True) is LOCAL


@pytest.mark.parametrize(
    ("headers", "takes_form", "refusal"),
    [
        ((HOST, FORM), False, UnsupportedHead),
        ((HOST, FORM, (b"sec-fetch-site", b"cross-site")), True, ForbiddenOrigin),
        ((HOST, FORM, (b"sec-fetch-site", b"same-site")), True, ForbiddenOrigin),
        ((HOST, FORM, (b"origin", b"https://evil.example")), True, ForbiddenOrigin),
        (
            (HOST, FORM, (b"origin", b"http://localhost:3"), (b"sec-fetch-site", b"same-site")),
            True,
            UnsupportedHead,
        ),
        ((HOST, (b"content-type", b"text/plain")), True, UnsupportedHead),
    ],
)
def test_foreign_form_is_refused_without_keys(headers, takes_form, refusal):
    with pytest.raises(refusal):
        authenticator().authenticate(asked(*headers), NOW_S, takes_form=takes_form)


@pytest.mark.parametrize(
    ("profile", "path_profile", "opens"),
    [
        *(("ragflow", None, True), (None, "ragflow", True), ("ragflow", "dify", False)),
        *((None, None, False), ("ragflow", "nobody", False)),
    ],
)
def test_key_in_a_json_object_is_unwrapped_for_its_profile(profile, path_profile, opens):
    bearer = (b"authorization", b'Bearer {"api_key": "%b", "x": 1}' % KEY.encode())
    if opens:
        assert keyed(profile).authenticate(asked(bearer), NOW_S, path_profile).name == "a"
        return
    with pytest.raises(InvalidApiKey):
        keyed(profile).authenticate(asked(bearer), NOW_S, path_profile)


ONE, TWO, OTHER = KEY, f"{KEY}-2", "sk-ant-oat01-a-login-of-its-own"
IN_JSON = '{"api_key": "%s", "x": 1}'


@pytest.mark.parametrize(
    ("profile", "values", "key"),
    [
        (None, {"authorization": f"Bearer {OTHER}", "x-api-key": ONE}, ONE),
        (None, {"authorization": f"Bearer {ONE}", "x-api-key": OTHER}, ONE),
        (None, {"authorization": "Basic dTpw", "api-key": TWO}, TWO),
        (None, {"authorization": f"Bearer {OTHER}", "x-api-key": "EMPTY", "api-key": TWO}, TWO),
        (None, {"authorization": f"Bearer {IN_JSON % ONE}", "x-api-key": ONE}, ONE),
        (None, {"authorization": f"Bearer {IN_JSON % OTHER}", "x-api-key": ONE}, ONE),
        ("ragflow", {"authorization": f"Bearer {IN_JSON % ONE}", "x-api-key": OTHER}, ONE),
        (None, {"authorization": f"Bearer {IN_JSON % ONE}", "x-api-key": OTHER}, None),
        (None, {"authorization": f"Bearer {ONE}", "x-api-key": TWO}, None),
        (None, {"authorization": f"Bearer {ONE}", "x-api-key": OTHER, "api-key": TWO}, None),
        (None, {"authorization": f"Bearer {IN_JSON % ONE}", "x-api-key": TWO}, None),
        ("ragflow", {"authorization": f"Bearer {IN_JSON % ONE}", "x-api-key": IN_JSON % TWO}, None),
        (None, {"authorization": f"Bearer {OTHER}", "x-api-key": "EMPTY"}, None),
    ],
)
def test_of_several_values_the_one_that_is_known_decides(profile, values, key):
    entries = [{"name": "a", "hash": hash_key(one), "profile": profile or "plain"} for one in (ONE, TWO)]
    ring = authenticator(access={"keys": entries})
    presented = [(name.encode(), value.encode()) for name, value in values.items()]
    for headers in (presented, presented[::-1]):
        if key is None:
            with pytest.raises(InvalidApiKey) as caught:
                ring.authenticate(asked(*headers), NOW_S)
            assert not any(secret in caught.value.message for secret in (ONE, TWO, OTHER))
        else:
            assert ring.authenticate(asked(*headers), NOW_S).key_id == hash_key(key)[len("sha256:") :][:8]


def test_a_caller_with_some_models_must_name_one_of_them():
    key = Caller("a", "a", models=["gpt-*"])
    check_model_access(key, "gpt-4o")
    for model, expected in (("o1", "'o1'"), ("", "names none")):
        with pytest.raises(NotAllowed, match=expected):
            check_model_access(key, model)
    check_model_access(replace(key, models=["*"]), "")
    with pytest.raises(NotAllowed, match="'a' may not call models, because it has the role viewer"):
        check_model_access(replace(key, role="viewer"), "gpt-4o")


def test_pages_are_checked_without_keys():
    foreign = asked(HOST, (b"origin", b"https://evil.example"))
    with pytest.raises(ForbiddenOrigin, match=r"CORS: .*'https://evil\.example'\. Set access\.keys, .*cors_origins\."):
        authenticator().check_without_key(foreign)
    keyed().check_without_key(foreign)


def with_keys(*entries):
    return authenticator(access={"keys": [{"name": "a", "hash": hash_key(KEY), **entry} for entry in entries]})


BEARER = (b"authorization", b"Bearer " + KEY.encode())
END = "2027-01-31T18:00:00Z"
END_S = datetime(2027, 1, 31, 18, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("role", "calls", "reads"), [(None, 1, 0), ("caller", 1, 0), ("viewer", 0, 1), ("admin", 1, 1)]
)
def test_a_role_decides_whether_a_caller_may_call_models_and_read_the_pages(role, calls, reads):
    ring = with_keys({} if role is None else {"role": role})
    with nullcontext() if calls else pytest.raises(NotAllowed, match="'a' may not call models, because it has"):
        caller = ring.authenticate(asked(BEARER), NOW_S)
        assert caller.role == (role or "caller")
        check_calls_models(caller)
    with nullcontext() if reads else pytest.raises(NotAllowed, match="may not read /v1/files, because it has"):
        assert ring.authenticate_reader(asked(BEARER), NOW_S).role == role


def test_a_key_is_good_until_the_moment_it_expires():
    ring = with_keys({"role": "admin", "expires": END})
    for check in (ring.authenticate, ring.authenticate_reader):
        assert check(asked(BEARER), END_S - 0.001).name == "a"
        for wall_s in (END_S, END_S + 1e9):
            with pytest.raises(InvalidApiKey, match=f"key of the caller 'a' expired at {END}. Create another"):
                check(asked(BEARER), wall_s)


def test_only_a_caller_with_the_key_learns_that_it_expired():
    ring = with_keys({"expires": END})
    for wrong in (KEY + "x", KEY[:-1], hash_key(KEY)):
        with pytest.raises(InvalidApiKey, match="not known to gatepass"):
            ring.authenticate(asked((b"x-api-key", wrong.encode())), END_S)


def test_an_expired_key_decides_too():
    ring = with_keys({"expires": END}, {"hash": hash_key(KEY + "2")})
    login = (b"x-api-key", b"a-login-of-its-own")
    with pytest.raises(InvalidApiKey, match="expired"):
        ring.authenticate(asked(login, BEARER), END_S)
    with pytest.raises(InvalidApiKey, match="two different"):
        ring.authenticate(asked((b"x-api-key", f"{KEY}2".encode()), BEARER), END_S)


def test_two_keys_of_one_caller_are_one_caller_and_expire_one_by_one():
    ring = with_keys({"expires": END}, {"hash": hash_key(KEY + "2")})
    new = (b"authorization", f"Bearer {KEY}2".encode())
    assert [ring.authenticate(asked(bearer), END_S - 1).name for bearer in (BEARER, new)] == ["a", "a"]
    assert ring.authenticate(asked(new), END_S).name == "a"
    with pytest.raises(InvalidApiKey, match="expired"):
        ring.authenticate(asked(BEARER), END_S)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"authorization", b"Bearer"),),
        ((b"authorization", b"Bearer  "), (b"x-api-key", b"")),
        ((b"authorization", b"Bearer undefined"),),
        ((b"authorization", b"Bearer null"), (b"api-key", b"None")),
    ],
)
def test_a_request_without_any_credential_is_told_to_sign_in_where_tokens_are_accepted(headers):
    with pytest.raises(InvalidApiKey) as refused:
        Authenticator(keyed_config(), cast(JwtCallers, object())).authenticate(asked(HOST, *headers), NOW_S)
    assert str(refused.value) == (
        "The request has no API key and no token. Send it as `Authorization: Bearer <key>`."
        " If an application sends your login's token, sign in there again."
    )


def test_without_tokens_no_login_is_advised():
    with pytest.raises(InvalidApiKey) as refused:
        keyed().authenticate(asked(HOST), NOW_S)
    assert "sign in" not in str(refused.value)
