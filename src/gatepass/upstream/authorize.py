"""How a token is shown to an upstream."""

from __future__ import annotations

from gatepass.call import Secret


def bearer(token: Secret) -> tuple[bytes, bytes]:
    """The field `authorization: Bearer …` (RFC 6750 2.1).

    Raises ValueError, without the token in it, for one that no header field can hold: whatever else
    failed to look, nothing is smuggled into the request behind a line break.
    """
    value = token.reveal()
    if not value or not all("\x21" <= character <= "\x7e" for character in value):
        raise ValueError("the token is empty or holds a blank, a line break or a character beyond ASCII")
    return (b"authorization", b"Bearer " + value.encode("ascii"))
