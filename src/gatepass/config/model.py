"""The configuration as one tree of frozen values: what may be written, its defaults and its units.

Every class is one block of the file, in the module of its name. Unknown members are errors. Fields that hold a
secret have the type `Secret`; `references.py` says how `${ENV}` and `${file:…}` become one.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gatepass.config.access import Access
from gatepass.config.block import Block, Name
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.models import Model, OperationName, OperationRoute
from gatepass.config.profiles import Profile
from gatepass.config.server import Limits, Log, Server
from gatepass.config.store import StoreSettings
from gatepass.config.upstream import Upstream


class Config(Block):
    """The whole file."""

    server: Server = Server()
    """Where gatepass listens and how it stops."""
    limits: Limits = Limits()
    """Bounds on what one client or upstream may take."""
    credentials: dict[Name, AnyCredential] = {}
    """Where tokens come from, by name."""
    upstreams: Annotated[dict[Name, Upstream], Field(min_length=1)]
    """The servers behind gatepass, by name; at least one."""
    operations: dict[OperationName, OperationRoute] = {}
    """What is different for one operation, and where models go in it that no entry of `models` names."""
    models: dict[str, Model] = {}
    """Public model names or globs. An exact name beats the longest glob, which beats `*`."""
    profiles: dict[Name, Profile] = {}
    """What clients need beyond the plain API, by name."""
    access: Access = Access()
    """Who may come in."""
    store: StoreSettings | None = None
    """A server through which independent gatepass processes share; None: each for itself."""
    log: Log = Log()
    """What is written about each request."""
