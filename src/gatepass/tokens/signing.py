"""Requests that prove themselves by an HMAC: values in, values out."""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import urlsplit

from gatepass.config.credential.sign import SIGNATURE, Sign, with_values
from gatepass.tokens.draft import Draft

Values = Mapping[str, str]
"""What stands for each `{name}`."""


def moments(wall_s: float, nonce: str) -> Values:
    """The values of one request; `wall_s` in epoch seconds."""
    second = int(wall_s)
    return {
        "timestamp": str(second),
        "timestamp_ms": str(int(wall_s * 1000)),
        "time": datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "nonce": nonce,
    }


def signed(draft: Draft, sign: Sign, secret: str, values: Values) -> Draft:
    """`draft` with its places filled: first the values, then the signature over what it has become."""
    draft = draft.filled(values)
    text = with_values(sign.text, {**_members(draft), **_about(draft), **values})
    return draft.filled({SIGNATURE: signature(sign, secret, text)})


def signature(sign: Sign, secret: str, text: str) -> str:
    digest = hmac.digest(secret.encode(), text.encode(), sign.algorithm)
    return digest.hex() if sign.encoding == "hex" else b64encode(digest).decode()


def _members(draft: Draft) -> dict[str, str]:
    """What the text may call by its name; of two with one name that of the query, the form, the JSON body, the
    headers counts, in this order.
    """
    document = draft.document if isinstance(draft.document, Mapping) else {}
    plain = {str(name): _written(value) for name, value in document.items() if not isinstance(value, list | dict)}
    return {**draft.headers, **plain, **(draft.form or {}), **draft.query}


def _written(value: object) -> str:
    """A member of a JSON body as text: `true`, not `True`."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)


def _about(draft: Draft) -> dict[str, str]:
    body = draft.body()
    return {
        "method": draft.method,
        "path": urlsplit(draft.url).path or "/",
        "body": body.decode(),
        "body_sha256": sha256(body).hexdigest(),
    }
