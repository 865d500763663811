"""A multipart form on its way from the client to an upstream, not held but for its beginning."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from gatepass.config.model import Limits
from gatepass.errors import InvalidRequest
from gatepass.normalize.built_in import ADDED
from gatepass.proxy.uploads import IN_QUOTES, FormScan
from gatepass.types import Operation

KEPT_BYTES = 1024 * 1024
"""So much of a form is kept in any case: where the model is looked for, and what can be sent again after a 401."""


Edit = tuple[int, int, bytes]
"""Where in the form something stands, and what is to stand there."""


class Sender(Protocol):
    """As much of a Client as a form is read from."""

    async def piece(self, limit_bytes: int) -> bytes:
        """As `Client.piece`."""
        ...


class Form:
    """The client's side: reads pieces as they are wanted. `model` is what the form names, as far as it was read.

    A form that is not longer than `limits.body_bytes` is held until its model is known, because many clients write
    their file first. An `operation` that is about no model needs none: the form is not searched for one.
    """

    def __init__(
        self, sender: Sender, operation: Operation, limits: Limits, scan: FormScan, length_bytes: int | None
    ) -> None:
        self.length_bytes = length_bytes
        self.bytes_in = 0
        """As much of it as was read."""
        self.routed: str | None = None
        """The name that the call was routed by, where the form names another or none; "" where it has none."""
        self.is_whole = self.has_begun = self.model_is_late = False
        self._sender = sender
        self._operation = operation
        self._limit_bytes = limits.upload_bytes
        self._scan = scan
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._look_bytes = self._keep_bytes = KEPT_BYTES
        self._names_model = operation.names_model
        if operation.names_model and (length_bytes is None or length_bytes <= limits.body_bytes):
            self._look_bytes = max(KEPT_BYTES, limits.body_bytes)

    @property
    def model(self) -> str | None:
        return self._scan.model

    @property
    def is_kept(self) -> bool:
        """Whether all that was read is still here."""
        return bool(self._kept) and self._kept_bytes <= self._keep_bytes

    async def begin(self) -> None:
        """Read until the model is known, for as long as the beginning can be kept; where there is none, one piece: a
        body that is too large, or no form, never goes up."""
        if not self._names_model:
            await self.read()
            return
        while self.model is None and not self.is_whole:
            if self._kept_bytes >= self._look_bytes and not (self._scan.has_named or self._scan.in_head):
                return
            await self.read()

    async def read(self) -> bytes:
        """The next piece; b"" at the end. Raises as `Client.piece` and FormScan do, and InvalidRequest for a model
        that comes when the form, routed without it, is on its way."""
        piece = await self._sender.piece(self._limit_bytes)
        self.is_whole = not piece
        self.bytes_in += len(piece)
        self._scan.feed(piece)
        if self.is_whole:
            self._scan.finish()
        if self.has_begun and self._scan.has_named and self.model_is_late:
            raise InvalidRequest(
                f"`model` comes so late in the form that the form was on its way without it. {self._advice()}",
                param="model",
            )
        self._kept_bytes += len(piece)
        if not self.has_begun or self._kept_bytes <= self._keep_bytes:
            self._kept.append(piece)
        else:
            self._kept.clear()
        return piece

    def taken(self) -> bytes:
        """What was read so far; from now on the form is on its way."""
        if not self.has_begun:
            self.has_begun, self.model_is_late = True, self._names_model and not self._scan.has_named
            self._keep_bytes = max(KEPT_BYTES, self._kept_bytes)
        self._kept = [b"".join(self._kept)] if self._kept else []
        return self._kept[0] if self._kept else b""

    def as_model(self, name: str | None) -> Outgoing:
        """The form as an upload, with `name`, or the routed one, in the place of its model's; as its first part, under
        ADDED, where the form names none."""
        name = self.routed if name is None else name
        if not self._names_model:
            return Outgoing(self)
        if self._scan.span is not None:
            edits: list[Edit] = [] if self._scan.quoted is None else [(*self._scan.quoted, IN_QUOTES)]
            if name is not None and name != self.model:
                edits.append((*self._scan.span, name.encode()))
            return Outgoing(self, tuple(edits))
        if not name:
            return Outgoing(self)
        return Outgoing(self, ((self._scan.start, self._scan.start, self._scan.model_part(name)),), (ADDED,))

    def without_model(self) -> InvalidRequest:
        """The error for a form that is not whole yet, and has to lead somewhere by its model alone."""
        return InvalidRequest(
            f"The first {self._kept_bytes} bytes of the form name no `model`, and no more of it is held."
            f" {self._advice()}",
            param="model",
        )

    def _advice(self) -> str:
        setting = f"operations.{self._operation.name}.model"
        return f"Send `model` before the file, or have {setting} set in gatepass and leave it out."


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An Upload: what of the form was read, edited, and then what comes. `edits` stand in order; `adapted` names them,
    but for a name in the place of another."""

    form: Form
    edits: tuple[Edit, ...] = ()
    adapted: tuple[str, ...] = ()

    @property
    def length_bytes(self) -> int | None:
        length_bytes = self.form.length_bytes
        if length_bytes is None:
            return None
        return length_bytes + sum(len(text) - (end - start) for start, end, text in self.edits)

    def again(self) -> bool:
        return not self.form.has_begun or self.form.is_kept

    async def __aiter__(self) -> AsyncIterator[bytes]:
        head = self.form.taken()
        for start, end, text in reversed(self.edits):
            head = head[:start] + text + head[end:]
        if head:
            yield head
        while not self.form.is_whole:
            if piece := await self.form.read():
                yield piece
