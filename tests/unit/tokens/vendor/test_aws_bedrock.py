import time
from base64 import b64decode
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import pytest

from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from gatepass.tokens.secrets import secret_values
from gatepass.tokens.source import build_source
from gatepass.tokens.vendor.aws_bedrock import AwsKeys, bedrock_key, parse_sts_session, role_form
from gatepass.types import Secret
from tests.unit.tokens.scripted import Answer, Broken, ScriptedIssuer, failure_of, timed_response
from tests.unit.tokens.vendor.accounts import AWS_KEYS, bedrock, logs_nothing_of, present

SECRET = AWS_KEYS["secret_access_key"]
ROLE = "arn:aws:iam::123456789012:role/bedrock"
GRANTED = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>secret/of+session</SecretAccessKey>
<SessionToken>token/of+session==</SessionToken><Expiration>2026-01-02T03:04:05Z</Expiration>
</Credentials></AssumeRoleResult></AssumeRoleResponse>"""


def refused(code: str, message: str = "No.") -> bytes:
    return f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>".encode()


def form(body: bytes) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(body.decode()).items()}


def source(issuer, **settings):
    return build_source("aws", bedrock(**settings), issuer, issuer.clock)


def granted(ends_s: float) -> Answer:
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends_s))
    return Answer(
        200,
        f"<Credentials><AccessKeyId>ASIASESSION</AccessKeyId><SecretAccessKey>secret-of-session</SecretAccessKey>"
        f"<SessionToken>token-of-session</SessionToken><Expiration>{end}</Expiration></Credentials>".encode(),
    )


def signed(token) -> dict[str, str]:
    """Return the query of the presigned request in a key."""
    url = b64decode(token.text.removeprefix("bedrock-api-key-")).decode()
    return {name: value for name, (value,) in parse_qs(urlsplit(f"//{url}").query).items()}


async def test_a_key_is_signed_here_without_a_request():
    issuer = ScriptedIssuer(present())
    token = await source(issuer, **AWS_KEYS, session_token="token-of-mine", key_ttl_s=1_800.0).fetch()
    reported = signed(token)
    assert reported["X-Amz-Security-Token"] == "token-of-mine"
    assert reported["X-Amz-Credential"].startswith("AKIDEXAMPLE/")
    assert "/us-east-1/bedrock/aws4_request" in reported["X-Amz-Credential"]
    assert (reported["X-Amz-Expires"], reported["Action"], reported["Version"]) == ("1800", "CallWithBearerToken", "1")
    assert (token.requested_s, token.lifetime_s, token.kind, token.lifetime_source) == (
        1_000,
        1_800,
        TokenKind.OPAQUE,
        LifetimeSource.REPLY,
    )
    assert issuer.calls == 0


@pytest.fixture
def web(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "token").write_text("projected-token-of-the-pod\n")
    return {"role_arn": ROLE, "web_identity_token_file": str(tmp_path / "token")}


async def test_a_web_identity_becomes_a_session_and_a_key_that_ends_with_it(web):
    issuer = ScriptedIssuer(clock := present(), granted(clock.wall() + 900))
    token = await source(issuer, **web).fetch()
    asked = issuer.requests[0]
    assert (asked.method, asked.url) == ("POST", "https://sts.us-east-1.amazonaws.com/")
    assert b"authorization" not in dict(asked.headers)
    reported = form(asked.body)
    assert reported["Action"] == "AssumeRoleWithWebIdentity"
    assert reported["WebIdentityToken"] == "projected-token-of-the-pod"
    assert (reported["RoleArn"], reported["RoleSessionName"]) == (ROLE, "gatepass")
    assert signed(token)["X-Amz-Security-Token"] == "token-of-session"
    assert token.lifetime_s == pytest.approx(900, abs=1)


async def test_a_session_that_has_ended_signs_nothing(web):
    issuer = ScriptedIssuer(clock := present(), granted(clock.wall() - 1))
    failure = await failure_of(source(issuer, **web, region="cn-north-1").fetch())
    assert issuer.requests[0].url == "https://sts.cn-north-1.amazonaws.com.cn/"
    assert failure.reason == "STS returned an expired session: check this machine's clock"


async def test_a_refusal_of_sts_is_quoted_masked(web, tmp_path):
    no = Answer(403, refused("AccessDenied", "projected-token-of-the-pod may not"))
    issuer = ScriptedIssuer(present(), no, Broken(detail="no way"))
    token_source, path = source(issuer, **web), tmp_path / "token"
    failure = await failure_of(token_source.fetch())
    expected = "the issuer refused the client: sts.us-east-1.amazonaws.com answered 403: AccessDenied: *** may not"
    assert (failure.reason, failure.is_refused) == (expected, True)
    assert (await failure_of(token_source.fetch())).reason == "no connection to sts.us-east-1.amazonaws.com (no way)"
    path.unlink()
    expected = f"web_identity_token_file: the file {path} cannot be read: No such file or directory"
    assert (await failure_of(token_source.fetch())).reason == expected
    assert issuer.calls == 2


@pytest.mark.parametrize("empty", ["access_key_id", "secret_access_key", "session_token"])
async def test_keys_that_are_empty_now_sign_nothing(empty):
    keys = {**AWS_KEYS, "session_token": "token-of-mine", empty: Secret(lambda: "")}
    failure = await failure_of(source(ScriptedIssuer(present()), **keys).fetch())
    assert failure.reason == f"{empty} is empty"


async def test_nothing_that_is_secret_is_logged_at_any_level(caplog, web):
    issuer = ScriptedIssuer(clock := present(), granted(clock.wall() + 900))
    of_session = ("projected-token-of-the-pod", "token-of-session", "secret-of-session", "Signature")
    with logs_nothing_of(caplog, ("botocore", "urllib3"), SECRET, "token-of-mine", *of_session):
        for settings in (web, {**AWS_KEYS, "session_token": "token-of-mine"}):
            token = await source(issuer, **settings).fetch()
            assert token.text not in caplog.text


def test_secrets_are_the_current_login_values(tmp_path):
    issuer, path = ScriptedIssuer(present()), tmp_path / "file"
    assert secret_values(source(issuer, **AWS_KEYS, session_token="s").secrets()) == (SECRET, "s")
    web = source(issuer, role_arn=ROLE, web_identity_token_file=str(path))
    assert secret_values(web.secrets()) == (None,)
    path.write_text("projected\n")
    assert secret_values(web.secrets()) == ("projected",)


@pytest.mark.parametrize(("lifetime_s", "asked"), [(60.0, "900"), (1_800.0, "1800"), (43_200.0, "3600")])
def test_role_session_has_the_longest_common_lifetime(lifetime_s, asked):
    assert form(role_form(ROLE, lifetime_s, "jwt")) == {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": ROLE,
        "RoleSessionName": "gatepass",
        "DurationSeconds": asked,
        "WebIdentityToken": "jwt",
    }


def test_a_session_is_read():
    keys = parse_sts_session(timed_response(200, (), GRANTED.encode()), "sts.example")
    assert keys == AwsKeys("ASIAEXAMPLE", "secret/of+session", "token/of+session==", 1_767_323_045.0)
    assert "secret/of" not in repr(keys)
    assert "token/of" not in repr(keys)


def test_invalid_expiration_is_ignored():
    reply = timed_response(200, (), GRANTED.replace("2026-01-02T03:04:05Z", "soon").encode())
    assert parse_sts_session(reply, "sts.example").ends_s is None


@pytest.mark.parametrize("body", [b"", b"{}", GRANTED.replace("SessionToken", "Other").encode()])
async def test_a_reply_without_keys_is_not_quoted(body):
    failure = await failure_of(lambda: parse_sts_session(timed_response(200, (), body), "sts.example"))
    assert failure.reason == "sts.example answered 200 without a session's keys"


@pytest.mark.parametrize(
    ("status", "body", "expected", "definite"),
    [
        (
            403,
            refused("AccessDenied", "User: secret-one is not allowed"),
            "the issuer refused the client: sts.example answered 403: AccessDenied: User: *** is not allowed",
            True,
        ),
        (400, refused("Throttling"), "sts.example answered 400: Throttling: No.", False),
        (400, refused("IDPCommunicationError"), "sts.example answered 400: IDPCommunicationError: No.", False),
        (429, b"", "sts.example answered 429", False),
        (503, b"busy", "sts.example answered 503: busy", False),
    ],
)
async def test_a_refusal_is_quoted(status, body, expected, definite):
    def mask(text: str) -> str:
        return text.replace("secret-one", "***")

    failure = await failure_of(lambda: parse_sts_session(timed_response(status, (), body, mask=mask), "sts.example"))
    assert (failure.reason, failure.is_refused) == (expected, definite)


KEYS = AwsKeys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SESSION = AwsKeys(KEYS.access_key_id, KEYS.secret_access_key, "session/token+of=it")
OF_AWS = (
    "bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29tLz9BY3Rpb249Q2FsbFdpdGhCZWFyZXJUb2tlbiZYLUFtei1BbGdvcml0aG09QVdTNC1I"
    "TUFDLVNIQTI1NiZYLUFtei1DcmVkZW50aWFsPUFLSURFWEFNUExFJTJGMjAyNjAxMDIlMkZ1cy13ZXN0LTIlMkZiZWRyb2NrJTJGYXdzNF9yZXF1"
    "ZXN0JlgtQW16LURhdGU9MjAyNjAxMDJUMDMwNDA1WiZYLUFtei1FeHBpcmVzPTcyMDAmWC1BbXotU2lnbmVkSGVhZGVycz1ob3N0JlgtQW16LVNp"
    "Z25hdHVyZT05Zjc3YWQyMzUyNTM2ZTMwZmZjMGRlYWJjYmRjNmZhZWRhZTk3NzViYWI3NWVlMDE2ZDM3ZjQ4MjBhYWEyYmZkJlZlcnNpb249MQ=="
)
OF_AWS_IN_A_SESSION = (
    "bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29tLz9BY3Rpb249Q2FsbFdpdGhCZWFyZXJUb2tlbiZYLUFtei1BbGdvcml0aG09QVdTNC1I"
    "TUFDLVNIQTI1NiZYLUFtei1DcmVkZW50aWFsPUFLSURFWEFNUExFJTJGMjAyNjAxMDIlMkZ1cy13ZXN0LTIlMkZiZWRyb2NrJTJGYXdzNF9yZXF1"
    "ZXN0JlgtQW16LURhdGU9MjAyNjAxMDJUMDMwNDA1WiZYLUFtei1FeHBpcmVzPTcyMDAmWC1BbXotU2lnbmVkSGVhZGVycz1ob3N0JlgtQW16LVNl"
    "Y3VyaXR5LVRva2VuPXNlc3Npb24lMkZ0b2tlbiUyQm9mJTNEaXQmWC1BbXotU2lnbmF0dXJlPTE2ZGNiNmYxNTViMTMyNjZkMDA3ZDA3MzJkMjFl"
    "OWYxMmNjMzI2YmZiNTAxYjZkNjZhODJjMTg0YzMzMGNlMWUmVmVyc2lvbj0x"
)
"""The key of aws-bedrock-token-generator 1.1.0 for us-west-2 and two hours, at 2026-01-02 03:04:05 UTC."""


@pytest.mark.parametrize(("keys", "expected"), [(KEYS, OF_AWS), (SESSION, OF_AWS_IN_A_SESSION)])
def test_key_equals_that_of_awss_generator(keys, expected, monkeypatch):
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime(2026, 1, 2, 3, 4, 5))
    assert bedrock_key(keys, "us-west-2", 7_200.0) == expected
