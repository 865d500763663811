"""The caller of a request: who it is, and what it may use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Self

import msgspec

from gatepass.config.access import Access, AccessKey, BuiltIn, CallerRow, EndUsers, KeyOperation, Role
from gatepass.config.checks import OF_CALLER, OF_ROW
from gatepass.config.use_limits import UseLimits


class Caller(msgspec.Struct, frozen=True):
    """All that the path of a request knows of its sender. It contains no secret.

    The fields after `expires` but `is_only` are the settings of a key with the same names (`AccessKey`).
    """

    identity: str
    """Limits, queues, sessions, renewals of tokens and the preferred target go by it. No other caller has it."""
    name: str
    """Errors, the log, metrics and the page show it. It is of the configuration: a key's is the identity too, and all
    callers of a row of `access.jwt` have the same."""
    key_id: str = ""
    """The short id of the key that was used, "" without a key."""
    is_of_row: bool = False
    """It sent a token, and has a row of `access.jwt`."""
    user: str = ""
    """What its token calls a caller of `access.jwt`, for log and page: people can change it, so it decides nothing."""
    expires: datetime | None = None
    """The end of that key. None: it does not expire."""
    role: Role = "caller"
    models: Sequence[str] | None = None
    operations: Sequence[KeyOperation] | None = None
    mcp: Mapping[str, Sequence[str] | None] | None = None
    profile: BuiltIn | None = None
    weight: int = 1
    group: str | None = None
    limits: UseLimits | None = None
    end_users: EndUsers | None = None
    is_only: bool = False
    """No other caller is configured whose responses the upstream may store."""

    @property
    def setting(self) -> str:
        """Where its settings are, for errors."""
        return "access.jwt[].callers[]" if self.is_of_row else "access.keys[]"

    def other_role(self, least: Role) -> str:
        """Return what to do for another role, which is `least` or admin."""
        roles = least if least == "admin" else f"{least} or admin"
        if self.is_of_row:
            return f"Set role: {least} in its row of access.jwt[].callers."
        return f"Use a key with the role {roles} (`gatepass keys new --role {least}`)."

    @classmethod
    def of_key(cls, key: AccessKey, *, is_only: bool = False) -> Self:
        """Return the caller whose key `key` is. Those of its other keys differ in `key_id` and `expires` alone."""
        settings = {name: getattr(key, name) for name in OF_CALLER}
        return cls(key.name, key.name, key.id, expires=key.expires, **settings, is_only=is_only)

    @classmethod
    def of_row(cls, row: CallerRow, identity: str, user: str) -> Self:
        """Return the caller of a token that meets `row` of `access.jwt`."""
        settings = {name: getattr(row, name) for name in OF_ROW}
        return cls(identity, row.name, is_of_row=True, user=user, **settings)


def callers_of_rows(access: Access) -> Iterator[Caller]:
    """Yield what all callers of each row of `access.jwt` have in common."""
    for entry in access.jwt:
        yield from (Caller.of_row(row, "", "") for row in entry.callers)
