"""Which setting to look at: a failure that ends with its name is half mended."""

from __future__ import annotations

BY_VARIABLES = "token"
"""What the credential is called whose settings are variables of the environment."""
VARIABLES = {"url": "GATEPASS_TOKEN_URL", "token_url": "GATEPASS_TOKEN_URL", "reply.token": "GATEPASS_TOKEN_PATH"}


def setting(credential: str, name: str) -> str:
    """The full name of a setting, and of the variable that stands for it where there is no file."""
    variable = VARIABLES.get(name) if credential == BY_VARIABLES else None
    return f"credentials.{credential}.{name}{f' ({variable})' if variable else ''}"


def look_at(credential: str, name: str | None) -> str:
    """Where an address may be wrong; nothing where none was configured."""
    return "" if name is None else f"; check {setting(credential, name)}"


def look_at_the_way_to(credential: str, name: str | None) -> str:
    """Where nothing answers: the address may be wrong, or a proxy be needed."""
    return "" if name is None else f"{look_at(credential, name)} and its network.proxy"


def names_its_place(credential: str) -> str:
    """Where the token stands in a place that nobody looks at."""
    return f"; {setting(credential, 'reply.token')} names its place" if credential else ""
