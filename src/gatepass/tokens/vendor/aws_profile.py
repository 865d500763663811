"""A profile of AWS's credentials file. Pure: text in, keys out."""

from __future__ import annotations

from configparser import Error, RawConfigParser

from gatepass.tokens.vendor.sts import Keys

ELSEWHERE = (
    "credential_process",
    "sso_session",
    "sso_start_url",
    "login_session",
    "role_arn",
    "web_identity_token_file",
)
"""Members by which AWS's tools get keys from a program or a server: past our transport, so they are refused."""


def profile_keys(text: str, profile: str) -> Keys:
    """The keys of `profile`; raises ValueError, which quotes nothing of the file, where it has none of its own."""
    parser = RawConfigParser(default_section="")
    try:
        parser.read_string(text)
    except Error:
        raise ValueError("is no file of AWS profiles") from None
    if not parser.has_section(profile):
        raise ValueError(f"has no profile {profile}")
    members = parser[profile]
    if found := [name for name in ELSEWHERE if name in members]:
        raise ValueError(f"has a profile {profile} that wants {found[0]}, which would go past `network`: use role_arn")
    key, secret = members.get("aws_access_key_id"), members.get("aws_secret_access_key")
    if not key or not secret:
        raise ValueError(f"has a profile {profile} without aws_access_key_id and aws_secret_access_key")
    return Keys(key, secret, members.get("aws_session_token") or None)
