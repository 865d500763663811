"""A request that passes through: the client's own query, media types and body, in the dialect's frame. Pure."""

from __future__ import annotations

import re

from msgspec.structs import replace

from gatepass.call import Headers, Request, Upload, header

PARAMETERS = frozenset(
    (
        *(b"after", b"before", b"limit", b"order", b"purpose", b"include", b"include[]", b"include%5B%5D"),
        *(b"include%5b%5d", b"include_obfuscation", b"starting_after", b"stream"),
    )
)
"""What lists of files and batches, and kept responses, are asked by (openai-python escapes the brackets); nothing else
of a client's query goes up, a key in it least of all."""

_PLAIN = re.compile(rb"[A-Za-z0-9%._~+\[\]-]{1,512}=[A-Za-z0-9%._~+,:-]{0,512}\Z")


def passed_on(request: Request, headers: Headers, query: bytes, upload: Upload | None) -> Request:
    """`request` with what the client's own `headers` and `query` say; `upload` in the place of its body."""
    accept = header(headers, b"accept") or b"*/*"
    kind = header(headers, b"content-type") if upload is not None else None
    own = [(b"accept", accept), *([(b"content-type", kind)] if kind is not None else [])]
    names = {name for name, _ in own}
    fields = (*(field for field in request.headers if field[0] not in names), *own)
    return replace(request, url=_asked(request.url, query), headers=fields, upload=upload)


def _asked(url: str, query: bytes) -> str:
    kept = [pair for pair in query.split(b"&") if _PLAIN.match(pair) and pair.partition(b"=")[0] in PARAMETERS]
    if not kept:
        return url
    return f"{url}{'&' if '?' in url else '?'}{b'&'.join(kept).decode('ascii')}"
