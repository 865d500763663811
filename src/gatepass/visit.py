"""One request on its way down the street, with all that its steps need."""

from __future__ import annotations

import msgspec

from gatepass.adapt.profile import Prepared
from gatepass.admission.cors import cors_headers
from gatepass.call import Client, Inbound
from gatepass.catalog import Catalog
from gatepass.errors import ClientGone
from gatepass.gate import Gate
from gatepass.heartbeat import Heartbeat
from gatepass.observe.exchange import Exchange
from gatepass.reply import Reply
from gatepass.runtime import Leash
from gatepass.upload import Form


class Visit(msgspec.Struct, eq=False):
    """One request on its way: what came, who sent it, and where its answer goes.

    `profile` is what the client needs beyond the plain API: known when the caller is, and set then.
    """

    inbound: Inbound
    gate: Gate
    catalog: Catalog
    client: Client
    reply: Reply
    exchange: Exchange
    leash: Leash
    heartbeat: Heartbeat
    profile: Prepared
    form: Form | None = None
    """The body, where it is a form that passes through."""

    def adopt(self, profile: Prepared) -> None:
        """Serve the client as `profile` says, from here on."""
        self.profile = profile
        self.reply.more = cors_headers(self.inbound.headers, profile.settings.cors_origins)

    def leave(self) -> None:
        """The client has left: the request ends where it waits."""
        self.leash.pull(ClientGone())
