"""Where Azure's deployments are reached."""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode, urlsplit

_TAIL = re.compile(r"(/openai)?(/v1|/deployments(/[^/]*)?)?\Z")


def azure_url(base_url: str, deployment: str, path: str, api_version: str | None) -> str:
    """The URL of `path` (`/chat/completions`) for `deployment`, of any form in which people write the base.

    With an `api_version` the classic API, which names the deployment in the path; without one the v1
    API, which reads it from the body. `base_url` may be the bare resource or end in `/openai`,
    `/openai/v1`, `/v1` or `/openai/deployments/NAME`: a path with both would be 404 `Resource not found`.
    """
    parts = urlsplit(base_url)
    root = _TAIL.sub("", parts.path.rstrip("/"))
    path = "/" + path.lstrip("/")
    if api_version is None:
        return parts._replace(path=f"{root}/openai/v1{path}").geturl()
    place = f"/deployments/{quote(deployment, safe='')}" if deployment else ""
    return parts._replace(path=f"{root}/openai{place}{path}", query=urlencode({"api-version": api_version})).geturl()
