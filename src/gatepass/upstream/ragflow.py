"""RAGFlow as an upstream: its assistants and agents answer chats, and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from gatepass.call import Call, Request, Surface, Target, Timeouts
from gatepass.upstream.dialect import OpenaiDialect, operation_url, written
from gatepass.upstream.ragflow_path import Paths, assistant, chat_url, list_url


@dataclass(frozen=True, slots=True)
class RagflowDialect(OpenaiDialect):
    """A model's name is an assistant's id (see `ragflow_path.assistant`); the body is RagflowBody's matter.

    Its errors come as a code in a 200, which `codes.py` makes a status of.
    """

    lists_models: ClassVar[bool] = False
    paths: Paths = "current"

    def encode(
        self, call: Call, target: Target, base_url: str, timeouts: Timeouts, forward_headers: Collection[str] = ()
    ) -> Request:
        """As OpenaiDialect's. The list of models is one of assistants: no client is shown it, but its reply
        tells whether RAGFlow takes the token."""
        return written(call, self._url(call, target, base_url), timeouts, forward_headers)

    def _url(self, call: Call, target: Target, base_url: str) -> str:
        if call.operation.name == "chat":
            return _chat_url(base_url, target.model or call.model, self.paths)
        if call.operation.surface is Surface.MODELS:
            return list_url(base_url)
        return operation_url(base_url, call.operation)


@lru_cache(maxsize=1024)  # as in azure.py
def _chat_url(base_url: str, name: str, paths: Paths) -> str:
    return chat_url(base_url, assistant(name), paths)
