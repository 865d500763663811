"""`upstreams.NAME.repair`."""

import pytest
from pydantic import ValidationError

from gatepass.config.upstream import RepairConfig, UpstreamConfig


def test_no_optional_repair_is_on_by_default():
    assert UpstreamConfig(base_url="https://h/v1").repair == RepairConfig()
    assert RepairConfig().model_dump() == {"cumulative": False}


@pytest.mark.parametrize("block", [{"cumulative": "yes"}, {"cumulatives": True}])
def test_anything_else_is_refused(block):
    with pytest.raises(ValidationError):
        RepairConfig.model_validate(block)
