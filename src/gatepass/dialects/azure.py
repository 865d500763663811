"""The dialect of Azure OpenAI, where a request names a deployment instead of a model."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar
from urllib.parse import unquote, urlencode, urlsplit

from gatepass.config.upstream import AzureConfig
from gatepass.dialects.base import Dialect, build_request, path_segment
from gatepass.dialects.hints import AZURE_HINTS, Hint
from gatepass.types import Call, OutboundRequest, Target, Timeouts

_TAIL = r"(/openai)?(/v1|/deployments(?:/([^/]*))?)?\Z"


@lru_cache(maxsize=1024)  # building a URL costs 10 µs; a model has 512 characters at most
def azure_url(base_url: str, deployment: str, path: str, azure: AzureConfig) -> str:
    """Return the URL of `path` (`/chat/completions`) for `deployment`.

    The classic API names the deployment in the path, the v1 API in the body. `base_url` may be the resource alone, or
    end in `/openai`, `/openai/v1`, `/v1` or `/openai/deployments/NAME`. Raises ModelNotFound for a deployment that
    cannot be a path segment.
    """
    parts = urlsplit(base_url)
    # a path with a part twice would be a 404 `Resource not found`
    root = re.sub(_TAIL, "", parts.path.rstrip("/"))
    path = "/" + path.lstrip("/")
    query = "" if azure.api_version is None else urlencode({"api-version": azure.api_version})
    if not azure.is_classic:
        return parts._replace(path=f"{root}/openai/v1{path}", query=query).geturl()
    place = f"/deployments/{path_segment(deployment)}" if deployment else ""
    return parts._replace(path=f"{root}/openai{place}{path}", query=query).geturl()


def deployment_of(base_url: str) -> str:
    """Return the deployment at the end of `base_url`, or ""."""
    found = re.search(_TAIL, urlsplit(base_url).path.rstrip("/"))
    return unquote(found[3] or "") if found else ""


@dataclass(frozen=True, slots=True)
class AzureDialect(Dialect):
    """The classic API with a dated `api_version`, or the v1 API without one.

    The classic API names the deployment in the path and ignores `model` in the body. The v1 API reads `model`. Replies
    are read as OpenAI's: the repair handles Azure's chunks without choices for every upstream.
    """

    lists_models: ClassVar[bool] = False  # the list has the models that the region offers, not the deployments
    settings: AzureConfig = field(default_factory=AzureConfig)
    deployment: str = ""
    """The deployment in `base_url`, for models without a `name`. "": the client's model name."""

    def encode(
        self, call: Call, target: Target, base_url: str, timeouts: Timeouts, forward_headers: Collection[str] = ()
    ) -> OutboundRequest:
        """As in Dialect. Raises ModelNotFound for a model that cannot be a path segment."""
        operation = call.operation
        # a Responses request names its deployment in the body, in the classic API too (openai-python's lib/azure.py)
        has_none = not (operation.has_deployment_path and operation.names_model)
        deployment = "" if has_none else target.model or self.deployment or call.model
        url = azure_url(base_url, deployment, operation.path, self.settings)
        return build_request(call, url, timeouts, forward_headers)

    @property
    def hints(self) -> tuple[Hint, ...]:
        return AZURE_HINTS
