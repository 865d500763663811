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

from gatepass.types import Headers

C = TypeVar("C")
_ABSENT = object()
Address = str
"""An IPv4 address, or the /64 network of an IPv6 one, as text. Objects of `ipaddress` take 0.3 µs for each hash."""

IDLE_S = 1.0
"""Time for a new client to send its request. A lack of file descriptors closes no younger connection."""

AT_ONCE = 100
"""Maximum number of connections that one call closes. That takes 2 ms. The next calls close the rest."""

PROXIES = 16
"""Maximum number of proxies between a client and gatepass that are read from X-Forwarded-For."""
ADDRESS_CHARS = 64
"""Maximum length of an address: an IPv6 address has up to 39 characters, and a zone may follow."""


class ConnectionShares(Generic[C]):
    """Decides which connections close when too many are open. A new connection is always accepted.

    `connections` may be authenticated, and one more for each of `callers`. `unauthenticated` more are for the others,
    which also use the free part of the authenticated share: a busy client takes seconds to send what it has connected
    for. When all are in use, the oldest connection of the address with the most closes first, so that a flood closes
    its own connections.
    """

    def __init__(self, connections: int, unauthenticated: int, callers: int) -> None:
        self._authenticated_limit = connections + callers
        self._unauthenticated_limit = unauthenticated
        self._unauthenticated: Groups[C] = Groups()
        self._callers: dict[str, _OfCaller[C]] = {}
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
        self._unauthenticated.add(connection, address, now_s)
        closing: list[C] = []  # `list[C]()` takes 0.8 µs
        while len(self) > self._authenticated_limit + self._unauthenticated_limit and len(closing) < AT_ONCE:
            if (oldest := self._unauthenticated.oldest_of_largest(now_s)) is None:
                break
            closing.append(oldest)
            self._unauthenticated.remove(oldest)
        return closing

    def begin(self, connection: C) -> bool:
        """Record that a request has begun. Return False, and do nothing, if `connection` belongs to no caller."""
        own = self._authenticated.get(connection)
        if own is None:
            return False
        if own.idle.pop(connection, _ABSENT) is _ABSENT:
            own.delivering.pop(connection, None)
        return True

    def begin_unauthenticated(self, connection: C, now_s: float) -> None:
        """Record that a request has begun on `connection`, which belongs to no caller."""
        self._unauthenticated.touch(connection, now_s)

    def authenticate(self, connection: C, caller: str) -> list[C]:
        """Assign `connection` to `caller`, whose request was accepted; return the connections to close."""
        known, own = self._authenticated.get(connection), self._callers.get(caller)
        if known is None:
            if not self._unauthenticated.remove(connection):
                return []  # it is closed already
        elif known is own:
            return []
        if known is not None:
            self._leave(known)
        if own is None:
            own = self._callers[caller] = _OfCaller(caller)
        own.connections += 1
        self._authenticated[connection] = own
        if len(self._authenticated) <= self._authenticated_limit:
            return []
        callers = self._callers.values()
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
        if self._unauthenticated.remove(connection):
            self._unauthenticated.add(connection, address, now_s)

    def relieve(self, now_s: float) -> list[C]:
        """Return connections to close because no file descriptor is free: those that close first above the shares."""
        closing: list[C] = []
        while (
            len(closing) < AT_ONCE and (oldest := self._unauthenticated.oldest_of_largest(now_s - IDLE_S)) is not None
        ):
            closing.append(oldest)
            self._unauthenticated.remove(oldest)
        return closing

    def disconnect(self, connection: C) -> None:
        """Forget `connection`, which is closed."""
        self._unauthenticated.remove(connection)
        if connection in self._authenticated:
            self._remove_authenticated(connection)

    def _remove_authenticated(self, connection: C) -> C:
        own = self._authenticated.pop(connection)
        own.idle.pop(connection, None)
        own.delivering.pop(connection, None)
        self._leave(own)
        return connection

    def _leave(self, own: _OfCaller[C]) -> None:
        """Forget the caller `own` with its last connection."""
        own.connections -= 1
        if not own.connections:
            del self._callers[own.name]


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
        """The head of `connection` is complete, or the connection is closed."""
        self.total_bytes -= self._heads.pop(connection, (False, 0))[1]


class _OfCaller(Generic[C]):
    """The idle connections of one caller, longest idle first."""

    __slots__ = ("connections", "delivering", "idle", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections = 0
        self.idle: OrderedDict[C, None] = OrderedDict()
        self.delivering: OrderedDict[C, None] = OrderedDict()
        """Connections whose client has not read all of the last response."""


class Groups(Generic[C]):
    """Members by group, in the order of their last activity. Every operation takes constant time.

    The cost must not depend on the number of groups, because an attacker chooses the addresses of a flood.
    """

    def __init__(self) -> None:
        self._group_of: dict[C, Hashable] = {}
        self._groups: dict[Hashable, OrderedDict[C, float]] = {}
        self._by_size: dict[int, OrderedDict[Hashable, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        return len(self._group_of)

    def add(self, member: C, group: Hashable | None, now_s: float) -> None:
        """Add `member` to `group`, or to a new group if `group` is None."""
        group = group if group is not None else (member,)
        self._group_of[member] = group
        members = self._groups.get(group)
        if members is None:
            members = self._groups[group] = OrderedDict()
        members[member] = now_s
        self._resized(group, len(members) - 1, len(members))

    def remove(self, member: C) -> bool:
        """Remove `member`, and return whether it was present."""
        group = self._group_of.pop(member, None)
        if group is None:
            return False
        members = self._groups[group]
        del members[member]
        if not members:
            del self._groups[group]
        self._resized(group, len(members) + 1, len(members))
        return True

    def touch(self, member: C, now_s: float) -> None:
        group = self._group_of.get(member)
        if group is not None:
            members = self._groups[group]
            members[member] = now_s
            members.move_to_end(member)
            self._by_size[len(members)].move_to_end(group)

    def oldest_of_largest(self, since_s: float) -> C | None:
        """Return the member of the largest group that was active longest ago, None if that was after `since_s`.

        Of groups of the same size, use the one that changed longest ago.
        """
        if not self._largest:
            return None
        group = next(iter(self._by_size[self._largest]))
        member, at_s = next(iter(self._groups[group].items()))
        return member if at_s <= since_s else None

    def _resized(self, group: Hashable, before: int, after: int) -> None:
        by_size = self._by_size
        if before:
            groups = by_size[before]
            del groups[group]
            if not groups:
                del by_size[before]
        if after:
            if after not in by_size:
                by_size[after] = OrderedDict()
            by_size[after][group] = None
            if after > self._largest:
                self._largest = after
        # members come and go one at a time, so the largest group has at most one member less than before
        if self._largest not in by_size:
            self._largest -= 1


class TrustedProxies:
    """The operator's proxies (`server.trusted_proxies`), and the addresses of clients behind them."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ip_network(network) for network in networks]
        self.of_peer = lru_cache(maxsize=1024)(self._of_peer)  # the same clients connect again and again

    def _of_peer(self, peer: str) -> Address | None:
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
        """Return whether `peer` is the address of one of the proxies."""
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
