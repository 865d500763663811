"""`limits` of use: which settings make no sense together, and where each may stand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gatepass.config.access import AccessKey
from gatepass.config.document import ConfigError
from gatepass.config.load import check
from gatepass.config.model import Config


def test_a_limit_of_a_day_without_a_store_is_refused_at_the_load():
    upstream = {"base_url": "http://127.0.0.1/v1", "limits": {"requests": {"day": 5}}}
    with pytest.raises(ConfigError, match=r"upstreams\.u\.limits\.requests\.day.*needs `store`"):
        check(Config.model_validate({"upstreams": {"u": upstream}}))


def test_max_concurrent_of_a_key_is_one_of_its_limits():
    key = {"name": "a", "hash": f"sha256:{'0' * 64}", "max_concurrent": 3}
    for limits, most in ((None, None), ({"requests": {"minute": 5}}, 5)):
        quota = AccessKey.model_validate({**key, "limits": limits}).quota
        assert quota is not None
        assert quota.max_concurrent == 3
        assert (None if quota.requests is None else quota.requests.minute) == most
    with pytest.raises(ValidationError, match="is set in limits too"):
        Config.model_validate({"access": {"keys": [{**key, "limits": {"max_concurrent": 3}}]}})
