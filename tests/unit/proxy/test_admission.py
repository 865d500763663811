"""The limits of a caller that the configuration does not name."""

from typing import Any

import pytest
from msgspec.structs import replace

from gatepass.auth.caller import Caller
from gatepass.config.access import EndUsers
from gatepass.config.use_limits import UseLimits
from gatepass.errors import Limited
from gatepass.policy.limits import REQUESTS, Counts
from gatepass.proxy.admission import Admission
from tests.unit.proxy.test_context import a_context

ONCE = UseLimits.model_validate({"requests": {"minute": 1}})
ANA = Caller("issuer#1", "ana")


@pytest.mark.parametrize("limits", [{"limits": ONCE}, {"end_users": EndUsers(limits=ONCE)}])
async def test_its_own_limits_apply_by_its_identity(limits: dict[str, Any]):
    context = a_context()
    admission = Admission(context.state.config, Counts(), context.state.clock)

    async def admit(caller: Caller) -> None:
        context.caller = replace(caller, **limits)
        await admission.admit_message(context, (REQUESTS,), is_readable=True)

    await admit(ANA)
    await admit(replace(ANA, identity="issuer#2"))
    for name in ("ana", "anna"):
        with pytest.raises(Limited, match="'issuer#1'"):
            await admit(replace(ANA, name=name))
