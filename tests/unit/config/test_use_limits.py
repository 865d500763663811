"""`limits` of use: which settings make no sense together, and where each may stand."""

from __future__ import annotations

import pytest

from gatepass.config.document import ConfigError
from gatepass.config.load import check
from gatepass.config.model import Config


def test_a_limit_of_a_day_without_a_store_is_refused_at_the_load():
    upstream = {"base_url": "http://127.0.0.1/v1", "limits": {"requests": {"day": 5}}}
    with pytest.raises(ConfigError, match=r"upstreams\.u\.limits\.requests\.day.*needs `store`"):
        check(Config.model_validate({"upstreams": {"u": upstream}}))
