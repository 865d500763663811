"""Where Azure's deployments are reached."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlencode, urlsplit

from gatepass.config.upstream import Azure
from gatepass.upstream.segment import segment

_TAIL = re.compile(r"(/openai)?(/v1|/deployments(?:/([^/]*))?)?\Z")


def azure_url(base_url: str, deployment: str, path: str, azure: Azure) -> str:
    """The URL of `path` (`/chat/completions`) for `deployment`, of any form in which people write the base.

    The classic API names the deployment in the path, the v1 API reads it from the body.
    `base_url` may be the bare resource or end in `/openai`, `/openai/v1`, `/v1` or
    `/openai/deployments/NAME`: a path with both would be 404 `Resource not found`. Raises
    ModelNotFound for a deployment that no path can name.
    """
    parts = urlsplit(base_url)
    root = _TAIL.sub("", parts.path.rstrip("/"))
    path = "/" + path.lstrip("/")
    query = "" if azure.api_version is None else urlencode({"api-version": azure.api_version})
    if not azure.is_classic:
        return parts._replace(path=f"{root}/openai/v1{path}", query=query).geturl()
    place = f"/deployments/{segment(deployment)}" if deployment else ""
    return parts._replace(path=f"{root}/openai{place}{path}", query=query).geturl()


def deployment_of(base_url: str) -> str:
    """The deployment that `base_url` itself ends in, or ""."""
    found = _TAIL.search(urlsplit(base_url).path.rstrip("/"))
    return unquote(found[3] or "") if found else ""
