"""A multipart form on its way from the client to an upstream, not held but for its beginning."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from gatepass.call import Client
from gatepass.observe.exchange import Exchange
from gatepass.surface.form_data import FormScan

KEPT_BYTES = 1024 * 1024
"""So much of a form is kept: it is where the model is looked for, and what can be sent again after a 401."""


class Form:
    """The client's side: reads pieces as they are wanted. `model` is what the form names, as far as it was read."""

    def __init__(
        self, client: Client, exchange: Exchange, limit_bytes: int, boundary: bytes, length_bytes: int | None
    ) -> None:
        self.length_bytes = length_bytes
        self.is_whole = self.has_begun = False
        self._client = client
        self._exchange = exchange
        self._limit_bytes = limit_bytes
        self._scan = FormScan(boundary)
        self._kept: list[bytes] = []
        self._kept_bytes = 0

    @property
    def model(self) -> str | None:
        return self._scan.model

    @property
    def is_kept(self) -> bool:
        """Whether all that was read is still here."""
        return bool(self._kept) and self._kept_bytes <= KEPT_BYTES

    async def begin(self) -> None:
        """Read until the model is known, for as long as the beginning can be kept."""
        while self.model is None and not self.is_whole and self._kept_bytes < KEPT_BYTES:
            await self.read()

    async def read(self) -> bytes:
        """The next piece; b"" at the end. Raises as `Client.piece` and FormScan do."""
        piece = await self._client.piece(self._limit_bytes)
        self.is_whole = not piece
        self._exchange.bytes_in += len(piece)
        self._scan.feed(piece)
        self._kept_bytes += len(piece)
        if not self.has_begun or self._kept_bytes <= KEPT_BYTES:
            self._kept.append(piece)
        else:
            self._kept.clear()
        return piece

    def taken(self) -> bytes:
        """What was read so far; from now on the form is on its way."""
        self.has_begun = True
        return b"".join(self._kept)

    def as_model(self, name: str | None) -> Outgoing:
        """The form as an upload, with `name` in the place of its model's."""
        span = self._scan.span
        if name is None or span is None or name == self.model:
            return Outgoing(self)
        return Outgoing(self, (*span, name.encode()))


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An Upload: what of the form was read, edited, and then what comes."""

    form: Form
    edit: tuple[int, int, bytes] | None = None

    @property
    def length_bytes(self) -> int | None:
        length_bytes = self.form.length_bytes
        if length_bytes is None or self.edit is None:
            return length_bytes
        start, end, text = self.edit
        return length_bytes + len(text) - (end - start)

    def again(self) -> bool:
        return not self.form.has_begun or self.form.is_kept

    async def __aiter__(self) -> AsyncIterator[bytes]:
        head = self.form.taken()
        if self.edit is not None:
            start, end, text = self.edit
            head = head[:start] + text + head[end:]
        if head:
            yield head
        while not self.form.is_whole:
            if piece := await self.form.read():
                yield piece
