"""The base URL that a client should have: what a 404 tells, for most of them come of a wrong one."""

from __future__ import annotations

import re

from gatepass.call import Headers, header
from gatepass.surface.operations import PREFIXES
from gatepass.surface.profile_path import PREFIX

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")


def base_url(headers: Headers, base_path: str = "", profile: str | None = None) -> str:
    """`http://HOST/v1` with the host that the client itself wrote, or its path alone where that is none.

    For words to that client only: a proxy on the way, which may speak TLS, tells by `x-forwarded-proto`, and so may
    anybody.
    """
    path = base_path + (f"{PREFIX}{profile}" if profile else "") + PREFIXES[0]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        return path
    scheme = "https" if header(headers, b"x-forwarded-proto") == b"https" else "http"
    return f"{scheme}://{hosts[0].decode('ascii')}{path}"
