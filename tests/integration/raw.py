"""A client that sends given bytes and reads until the other side closes."""

import asyncio
from collections.abc import Iterable


async def send_raw(port: int, *pieces: bytes) -> bytes:
    """Return the bytes received after `pieces`, up to the close of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


def request(
    body: bytes = b"",
    fields: Iterable[tuple[str, str]] = (),
    *,
    target: str = "/v1/chat/completions",
    method: str = "POST",
    host: str | None = "localhost",
) -> bytes:
    """One whole request that closes its connection; `fields` come before the ones it needs."""
    named = [*fields]
    names = {name.lower() for name, _ in named}
    if host is not None and "host" not in names:
        named.insert(0, ("host", host))
    if "connection" not in names:
        named.append(("connection", "close"))
    if body and "transfer-encoding" not in names and "content-length" not in names:
        named.append(("content-length", str(len(body))))
    if body and "content-type" not in names:
        named.append(("content-type", "application/json"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in named)
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def status_of(response: bytes) -> int:
    words = response.split(b" ", 2)
    return int(words[1]) if response.startswith(b"HTTP/1.1 ") and words[1].isdigit() else 0
