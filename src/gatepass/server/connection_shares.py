"""Shares of client connections: no address and no caller can use all of them.

Without I/O: `now_s` is an argument, and the code that calls closes the connections that a call returns. A connection
is any hashable object. It belongs to its address until a request on it was authenticated, and then to that caller.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from gatepass.types import Headers

C = TypeVar("C")
_ABSENT = object()
Address = str
"""An IPv4 address, or the /64 network of an IPv6 one, as text. Objects of `ipaddress` take 0.3 µs for each hash."""

IDLE_S = 1.0
"""Time for a new client to send its request. A lack of file descriptors closes no younger connection."""

AT_ONCE = 100
"""Maximum number of connections that one call closes. That takes 2 ms. The next calls close the rest."""

CROWDS = 16
"""An address is crowded with more than this part of the unauthenticated share."""

PROXIES = 16
"""Maximum number of proxies between a client and gatepass that are read from X-Forwarded-For."""
ADDRESS_CHARS = 64
"""Maximum length of an address: an IPv6 address has up to 39 characters, and a zone may follow."""


class ConnectionShares(Generic[C]):
    """Decides which connections close when too many are open. A new connection is always accepted.

    `connections` may be authenticated, and one more for each of `callers`. `unauthenticated` more are for the others,
    which also use the free part of the authenticated share: a busy client takes seconds to send what it has connected
    for. When all are in use, the oldest connection of the address with the most closes first, so that a flood closes
    its own connections. If no address is crowded, the oldest of all closes.
    """

    def __init__(self, connections: int, unauthenticated: int, callers: int) -> None:
        self._authenticated_limit = connections + callers
        self._unauthenticated_limit = unauthenticated
        self._crowd = max(1, unauthenticated // CROWDS)
        self._unauthenticated: OrderedDict[C, tuple[Hashable, float]] = OrderedDict()
        """The address of each connection, and when it was active. The one that was active longest ago is first."""
        self._addresses: dict[Hashable, OrderedDict[C, None]] = {}
        self._crowded: dict[Hashable, OrderedDict[C, None]] = {}
        """The addresses with more than `_crowd` connections: few, although an attacker chooses the addresses."""
        self._callers: WeakValueDictionary[str, _OfCaller[C]] = WeakValueDictionary()
        self._authenticated: dict[C, _OfCaller[C]] = {}

    def set_callers(self, connections: int, callers: int) -> None:
        """Adjust the share of authenticated connections after a reload."""
        self._authenticated_limit = connections + callers

    def __len__(self) -> int:
        return len(self._unauthenticated) + len(self._authenticated)

    def connect(self, connection: C, address: Address | None, now_s: float) -> list[C]:
        """Count a new connection, and return those to close.

        `address` is None for a connection of a trusted proxy, whose client is not known yet. Only the
        limit on all connections applies to it.
        """
        self._add(connection, (connection,) if address is None else address, now_s)
        return self._make_room(len(self) - self._authenticated_limit - self._unauthenticated_limit, now_s)

    def begin(self, connection: C) -> bool:
        """Record that a request has begun. Return False, and do nothing, if `connection` belongs to no caller."""
        own = self._authenticated.get(connection)
        if own is None:
            return False
        if own.idle.pop(connection, _ABSENT) is _ABSENT:
            own.delivering.pop(connection, None)
        return True

    def begin_unauthenticated(self, connection: C, now_s: float) -> None:
        if (address := self._remove(connection)) is not None:
            self._add(connection, address, now_s)

    def authenticate(self, connection: C, caller: str) -> list[C]:
        """Assign `connection` to `caller`, whose request was accepted; return the connections to close."""
        known, own = self._authenticated.get(connection), self._callers.get(caller)
        if known is None:
            if self._remove(connection) is None:
                return []  # it is closed already
        elif known is own:
            return []
        if own is None:
            own = self._callers[caller] = _OfCaller()
        self._authenticated[connection] = own
        if len(self._authenticated) <= self._authenticated_limit:
            return []
        callers = list(self._callers.values())
        most = max((own.idle for own in callers), key=len) or max((own.delivering for own in callers), key=len)
        return [self._remove_authenticated(next(iter(most)))] if most else []

    def end(self, connection: C, *, delivered: bool) -> bool:
        """Record that a response is complete. Return False, and do nothing, if `connection` belongs to no caller.

        `delivered`: the client has read all of the response. If not, call again when it has.
        """
        own = self._authenticated.get(connection)
        if own is None:
            return False
        if not delivered:
            own.delivering[connection] = None
            return True
        own.idle[connection] = None
        if own.delivering:  # nearly always empty: a client reads a response as it arrives
            own.delivering.pop(connection, None)
        return True

    def end_unauthenticated(self, connection: C, address: Address | None, now_s: float) -> None:
        """Record that a response on `connection`, which has no caller, is complete.

        Behind a trusted proxy, the connection belongs to its client's `address` from now on.
        """
        if self._remove(connection) is not None:
            self._add(connection, (connection,) if address is None else address, now_s)

    def relieve(self, now_s: float) -> list[C]:
        """Return connections to close because no file descriptor is free: those that close first above the shares."""
        return self._make_room(AT_ONCE, now_s - IDLE_S)

    def disconnect(self, connection: C) -> None:
        self._remove(connection)
        if connection in self._authenticated:
            self._remove_authenticated(connection)

    def _remove_authenticated(self, connection: C) -> C:
        own = self._authenticated.pop(connection)
        own.idle.pop(connection, None)
        own.delivering.pop(connection, None)
        return connection

    def _add(self, connection: C, address: Hashable, now_s: float) -> None:
        self._unauthenticated[connection] = address, now_s
        members = self._addresses.setdefault(address, OrderedDict())
        members[connection] = None
        if len(members) > self._crowd:
            self._crowded[address] = members

    def _remove(self, connection: C) -> Hashable | None:
        """Remove `connection`, and return its address, None if it was not present."""
        address, _ = self._unauthenticated.pop(connection, (None, 0.0))
        if address is None:
            return None
        members = self._addresses[address]
        del members[connection]
        if len(members) == self._crowd:
            del self._crowded[address]
        if not members:
            del self._addresses[address]
        return address

    def _make_room(self, most: int, since_s: float) -> list[C]:
        """Remove up to `most` connections, and return them.

        They are the oldest of the largest crowded address, or of all, unless they were active after `since_s`.
        """
        closing: list[C] = []  # `list[C]()` takes 0.8 µs
        while len(closing) < min(most, AT_ONCE):
            oldest = next(iter(max(self._crowded.values(), key=len, default=self._unauthenticated)), None)
            if oldest is None or self._unauthenticated[oldest][1] > since_s:
                break
            closing.append(oldest)
            self._remove(oldest)
        return closing


class UnfinishedHeads(Generic[C]):
    """The bytes of the request heads that have not arrived completely, at most `limit_bytes` together.

    Above the limit the largest head without a key closes first, the oldest of equal ones.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.total_bytes = 0
        self._heads: dict[C, tuple[bool, int]] = {}
        """Whether the connection has no key, and the size of its head. The oldest head is first."""

    def hold(self, connection: C, size_bytes: int, *, has_key: bool) -> list[C]:
        """Set the size of the unfinished head of `connection`; return the connections to close."""
        self.total_bytes += size_bytes - self._heads.get(connection, (False, 0))[1]
        self._heads[connection] = not has_key, size_bytes
        closing: list[C] = []
        while self.total_bytes > self._limit_bytes:
            closing.append(max(self._heads, key=self._heads.__getitem__))  # the first of equal ones
            self.end(closing[-1])
        return closing

    def end(self, connection: C) -> None:
        self.total_bytes -= self._heads.pop(connection, (False, 0))[1]


class _OfCaller(Generic[C]):
    """The idle connections of one caller, longest idle first. Forgotten with its last connection."""

    __slots__ = ("__weakref__", "delivering", "idle")

    def __init__(self) -> None:
        self.idle: OrderedDict[C, None] = OrderedDict()
        self.delivering: OrderedDict[C, None] = OrderedDict()
        """Connections whose client has not read all of the last response."""


class TrustedProxies:
    """The operator's proxies (`server.trusted_proxies`), and the addresses of clients behind them."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ip_network(network) for network in networks]

    def of_peer(self, peer: str) -> Address | None:
        """Return the address that a new connection belongs to. None for a trusted proxy or without an address."""
        address = _parsed(peer)
        return None if address is None or self._trusts(address) else _grouped(address)

    def of_request(self, peer: str, headers: Headers) -> Address | None:
        """Return the address of the client that sent a request, None if it is unknown.

        Behind a trusted proxy it is the last address in X-Forwarded-For that is not a trusted proxy. The client can
        write any addresses before it.
        """
        address = _parsed(peer)
        if not self._networks or address is None or not self._trusts(address):
            return self.of_peer(peer)
        values = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
        # from the right: each proxy appends the address that it saw, and a client may have written the first ones
        for entry in reversed(",".join(values).rsplit(",", PROXIES)[-PROXIES:]):
            text = entry.strip()
            # without the port, which Azure's gateways append: `192.0.2.7:5123`, `[2001:db8::7]:5123`
            if text.startswith("["):
                text = text[1:].partition("]")[0]
            elif text.count(":") == 1:
                text = text.partition(":")[0]
            address = _parsed(text)
            if address is None:
                return None
            if not self._trusts(address):
                return _grouped(address)
        return None

    def is_trusted(self, peer: str) -> bool:
        address = _parsed(peer)
        return address is not None and self._trusts(address)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    return _address(text) if len(text) <= ADDRESS_CHARS else None


@lru_cache(maxsize=1024)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _grouped(address: IPv4Address | IPv6Address) -> Address:
    # an IPv6 client can use every address of its /64 network, so the whole network is one address
    return str(address if isinstance(address, IPv4Address) else ip_network((int(address) >> 64 << 64, 64)))  # 128 bits
