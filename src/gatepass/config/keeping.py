"""Where the refresh tokens of a credential are kept, as far as the configuration tells."""

from __future__ import annotations

from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.model import Config

ALONE = (
    "its refresh token is kept nowhere but in the gatepass that runs: another use of it would end that one's login, "
    "which only a new one mends (set refresh_token_file, or a store)"
)


def is_alone(config: Config, name: str) -> bool:
    """Whether nobody but the gatepass that runs may use the refresh token of the credential `name`.

    Most issuers end it at its use, or all of its kin where it is used twice (RFC 9700 4.14.2), and without a common
    place nobody else learns the next one. Who can sign in otherwise does so and harms nobody.
    """
    settings = config.credentials[name]
    if config.store is not None or not isinstance(settings, Oauth2Credential):
        return False
    return settings.grant_type == "refresh_token" and settings.refresh_token_file is None
