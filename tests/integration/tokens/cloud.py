"""Three vendors' clouds on this machine, behind one proxy.

::

    async with Cloud(tmp_path) as cloud:
        ...  # mint with cloud.network
    assert cloud.asked == ["CONNECT login.microsoftonline.com:443"]

The hosts have their real names; their certificates come from a CA that is not trusted by default.
"""

import asyncio
import json
import ssl
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import trustme

from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply

ENTRA, GOOGLE, STS = "login.microsoftonline.com", "oauth2.googleapis.com", "sts.us-east-1.amazonaws.com"


class Cloud:
    """`asked` is what the proxy was asked for, in order; `received` what came to the servers behind it."""

    def __init__(self, folder: Path) -> None:
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(ENTRA, GOOGLE, STS).configure_cert(context)
        self.ca_file = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self.asked: list[str] = []
        self.minted = 0
        self._secure = Scripted(answer=self._answer, tls=context)
        self._plain = Scripted(answer=self._answer)
        self._pumps: set[asyncio.Task[Any]] = set()
        self._stack = AsyncExitStack()

    @property
    def network(self) -> dict[str, str]:
        return {"proxy": self.proxy, "ca_file": self.ca_file}

    @property
    def received(self) -> list[Received]:
        return [*self._secure.received, *self._plain.received]

    async def __aenter__(self) -> Self:
        for server in (self._secure, self._plain):
            await self._stack.enter_async_context(server)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.proxy = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await self._stack.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target = head.decode().split()[:2]
        self.asked.append(f"{method} {target.partition('?')[0]}")
        tunnels = method == "CONNECT"
        server = self._secure if tunnels else self._plain
        there, there_writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
        if tunnels:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            there_writer.write(head)
        for pump in (_pump(reader, there_writer), _pump(there, writer)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)

    def _answer(self, asked: Received) -> Dialogue:
        self.minted += 1
        if asked.header("host") == STS:
            return [Send(reply(_session().encode(), content_type="text/xml"))]
        token = {"access_token": f"token-{self.minted}", "expires_in": "3600", "token_type": "Bearer", "resource": "r"}
        return [Send(reply(json.dumps(token).encode(), content_type="application/json"))]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def _session() -> str:
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1_800))
    keys = {"AccessKeyId": "ASIASESSION", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": end}
    return "".join(f"<{name}>{value}</{name}>" for name, value in keys.items())
