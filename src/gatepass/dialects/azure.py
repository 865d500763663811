"""Azure OpenAI, which keeps a model behind a deployment of its own name."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar
from urllib.parse import unquote, urlencode, urlsplit

from msgspec.structs import replace

from gatepass.config.upstream import AzureConfig
from gatepass.dialects.base import Dialect, build_request, path_segment
from gatepass.dialects.hints import AZURE_CLASSIC, AZURE_V1
from gatepass.dialects.reply_check import ReceivedReply, classify_error
from gatepass.errors import UpstreamError
from gatepass.types import Call, ClientProtocol, OutboundRequest, Target, Timeouts

_TAIL = re.compile(r"(/openai)?(/v1|/deployments(?:/([^/]*))?)?\Z")


def azure_url(base_url: str, deployment: str, path: str, azure: AzureConfig) -> str:
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
    place = f"/deployments/{path_segment(deployment)}" if deployment else ""
    return parts._replace(path=f"{root}/openai{place}{path}", query=query).geturl()


def deployment_of(base_url: str) -> str:
    """The deployment that `base_url` itself ends in, or ""."""
    found = _TAIL.search(urlsplit(base_url).path.rstrip("/"))
    return unquote(found[3] or "") if found else ""


@dataclass(frozen=True, slots=True)
class AzureDialect(Dialect):
    """Deployments by their path with a dated `api_version`, by the body's `model` without one (the v1 API).

    The classic API reads no `model` of the body. Its replies need no reading of their own: chunks
    without choices are what relay/ mends for every upstream. Its model list holds what could be
    deployed in the region, not what is.
    """

    lists_models: ClassVar[bool] = False
    settings: AzureConfig = field(default_factory=AzureConfig)
    deployment: str = ""
    """What `base_url` names, for models without a `name`; "": the client's own word."""

    def encode(
        self, call: Call, target: Target, base_url: str, timeouts: Timeouts, forward_headers: Collection[str] = ()
    ) -> OutboundRequest:
        """As Dialect's; raises ModelNotFound for a model that no deployment can be called by.

        Responses name their deployment in the body, in the classic API too (openai-python's lib/azure.py).
        """
        operation = call.operation
        has_none = operation.protocol in (ClientProtocol.MODELS, ClientProtocol.RESPONSES) or not operation.names_model
        deployment = "" if has_none else target.model or self.deployment or call.model
        return build_request(call, _url(base_url, deployment, operation.path, self.settings), timeouts, forward_headers)

    def classify_error(self, reply: ReceivedReply) -> UpstreamError:
        """As Dialect's, with advice for an upstream that has this dialect already."""
        return classify_error(replace(reply, hints=AZURE_CLASSIC if self.settings.is_classic else AZURE_V1))


_url = lru_cache(maxsize=1024)(azure_url)  # taking a URL apart costs 10 µs; a model has 512 characters at most
