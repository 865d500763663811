"""The list of models, which gatepass answers itself. Upstreams are asked for their own lists."""

from __future__ import annotations

from gatepass.protocols.client_protocol import ClientProtocol


class Models(ClientProtocol):
    """A request without a body."""

    __slots__ = ()

    name = "models"
    members = frozenset()
    is_answered_here = True


MODELS = Models()
