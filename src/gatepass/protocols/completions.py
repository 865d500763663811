"""Completions of a text, the API before chats. Its replies are read like those of a chat."""

from __future__ import annotations

from gatepass.protocols.chat import Chat
from gatepass.protocols.request import decode


class Completions(Chat):
    """Choices with a text instead of a message."""

    __slots__ = ()

    name = "completions"
    is_text = True
    parse = staticmethod(decode)
    samples = ({"prompt": "ping", "max_tokens": 1},)


COMPLETIONS = Completions()
