"""Our Transport in the shape that azure-core wants one."""

from __future__ import annotations

from types import TracebackType
from typing import Any
from urllib.parse import urlencode

from azure.core.pipeline.transport import AsyncHttpResponse, AsyncHttpTransport, HttpRequest
from azure.core.utils import case_insensitive_dict

from gatepass.tokens.reply import Reply
from gatepass.tokens.vendor.errand import Errand


class AzureTransport(AsyncHttpTransport[HttpRequest, AsyncHttpResponse]):
    """Every request of an azure pipeline goes on one errand. The pipeline's own time limits do not
    count: the errand has one for all. The hop's transport stays its owner's to close."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand

    async def send(self, request: HttpRequest, **_: Any) -> AsyncHttpResponse:
        reply = await self._errand.ask(request.method, request.url, request.headers, _body(request))
        return _Response(request, reply)

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self.close()


class _Response(AsyncHttpResponse):
    """A whole reply. azure-core reads its attributes and `text()`."""

    def __init__(self, request: HttpRequest, reply: Reply) -> None:
        super().__init__(request, None)
        self._body = reply.body
        self.status_code = reply.status
        self.reason = ""
        self.headers = case_insensitive_dict(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
        )
        self.content_type = self.headers.get("content-type", "")

    def body(self) -> bytes:
        return self._body

    def text(self, _: str | None = None) -> str:
        return self._body.decode("utf-8-sig", "replace")


def _body(request: HttpRequest) -> bytes:
    """azure-identity 1.25 sends this HttpRequest, 1.27 that of azure.core.rest: both have a `body`."""
    content = request.body
    if isinstance(content, dict):
        return urlencode(content).encode()
    return content.encode() if isinstance(content, str) else content or b""
