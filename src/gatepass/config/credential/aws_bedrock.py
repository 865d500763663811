"""`type: aws_bedrock`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gatepass.config.block import SecretText, Url
from gatepass.config.credential.base import Credential
from gatepass.config.credential.extra import checked_extra

_REGION = re.compile(r"[a-z0-9-]{1,40}\Z")
LONGEST_KEY_S = 12 * 3600.0
"""AWS honours a short-term key no longer."""
NO_KEYS = (
    "expects access_key_id with secret_access_key (${AWS_ACCESS_KEY_ID} …), or profile, or web_identity_token_file;"
    " roles of an instance or container, SSO and credential_process are not used:"
    " AWS's library would ask for them past `network`"
)


class AwsBedrockCredential(Credential):
    """A short-term key for Amazon Bedrock, signed on this machine with AWS keys. Extra `aws`."""

    type: Literal["aws_bedrock"]
    """Where the token comes from."""
    region: str
    """The region whose Bedrock the key is for."""
    access_key_id: SecretText | None = None
    """AWS keys, best by reference: `${AWS_ACCESS_KEY_ID}`."""
    secret_access_key: SecretText | None = None
    """The other half."""
    session_token: SecretText | None = None
    """The third part of keys that are temporary."""
    profile: str | None = None
    """Take the keys from this profile of `profiles_file`, read anew for each key."""
    profiles_file: str | None = None
    """The file of the profiles, mostly `~/.aws/credentials`."""
    web_identity_token_file: str | None = None
    """Take keys from STS for `role_arn` and the token in this file, `${AWS_WEB_IDENTITY_TOKEN_FILE}` on EKS."""
    role_arn: str | None = None
    """A role to assume first, at STS."""
    role_session_name: str = "gatepass"
    """What STS calls the session."""
    external_id: str | None = None
    """What the role's owner wants told, where the role is another account's."""
    sts_url: Url | None = None
    """STS; None is `https://sts.REGION.amazonaws.com/`."""
    key_life_s: Annotated[float, Field(ge=60, le=LONGEST_KEY_S)] = 3600.0
    """Seconds that a key lives; it ends with the keys that signed it, where they end sooner."""

    @field_validator("type")
    @classmethod
    def _installed(cls, kind: str) -> str:
        checked_extra("botocore", "aws", kind)
        return kind

    @field_validator("region")
    @classmethod
    def _region_name(cls, region: str) -> str:
        if not _REGION.match(region):
            raise ValueError("expects the name of a region, such as us-east-1")
        return region

    @model_validator(mode="after")
    def _one_source(self) -> AwsBedrockCredential:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key need each other")
        sources = (self.access_key_id, self.profile, self.web_identity_token_file)
        given = sum(source is not None for source in sources)
        if given != 1:
            raise ValueError(
                NO_KEYS if not given else "access_key_id, profile and web_identity_token_file exclude each other"
            )
        if (self.profile is None) != (self.profiles_file is None):
            raise ValueError("profile and profiles_file need each other: the file is mostly ~/.aws/credentials")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token needs access_key_id beside it")
        if self.web_identity_token_file is not None and self.role_arn is None:
            raise ValueError("web_identity_token_file needs role_arn beside it")
        if self.external_id is not None and (self.role_arn is None or self.web_identity_token_file is not None):
            raise ValueError("external_id needs role_arn beside it, and keys or a profile")
        return self

    @property
    def sts(self) -> str:
        """Where STS is asked."""
        domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return self.sts_url or f"https://sts.{self.region}.{domain}/"
