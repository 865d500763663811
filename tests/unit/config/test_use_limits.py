"""`limits` of use: which settings make no sense together, and where each may stand."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gatepass.config.access import AccessKey
from gatepass.config.checks import different_keys, forgotten_limits, unknown_names
from gatepass.config.document import ConfigError
from gatepass.config.load import check
from gatepass.config.model import Config
from gatepass.config.use_limits import Quota, UseLimits


@pytest.mark.parametrize(
    ("limits", "fault"),
    [
        ({}, "limits nothing"),
        ({"mode": "observe"}, "limits nothing"),
        ({"requests": {}}, "expects at least one of second, minute, hour, day, month"),
        ({"requests": {"second": 10, "minute": 10}}, "is never reached"),
        ({"requests": {"minute": 100, "hour": 90}}, "is never reached"),
        ({"max_output_tokens": 10, "default_output_tokens": 11}, "is above max_output_tokens"),
        ({"tokens": {"second": 900}}, "has room for 900 tokens, and a chat without max_tokens reserves 1000"),
        ({"tokens": {"second": 900, "hour": 5_000}, "reserve_output_tokens": 901}, "has room for 900 tokens"),
        ({"requests": {"day": 100, "month": 90}}, "is never reached"),
        ({"requests": {"week": 1}}, "week"),
        (
            {"requests": {"day": 1}, "time_zone": "Europe/Bonn"},
            "is not a time zone of this machine: write an IANA name",
        ),
        ({"requests": {"day": 1}, "time_zone": "Europe"}, "is not a time zone of this machine"),
        ({"requests": {"day": 1}, "time_zone": "../UTC"}, "is not a time zone of this machine"),
        ({"time_zone": "Europe/Berlin"}, "limits nothing"),
        ({"requests": {"second": 0}}, "greater than 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits, fault):
    with pytest.raises(ValidationError, match=fault):
        UseLimits.model_validate(limits)


@pytest.mark.parametrize(
    "limits",
    [
        {"requests": {"second": 10, "minute": 100, "hour": 1_000}},
        {"tokens": {"second": 900}, "reserve_output_tokens": 900},
        {"tokens": {"second": 900}, "default_output_tokens": 100},
        {"max_concurrent": 1, "mode": "observe"},
        {"requests": {"day": 1_000, "month": 20_000}, "time_zone": "Europe/Berlin"},
    ],
)
def test_limits_that_fit_together_are_accepted(limits):
    assert UseLimits.model_validate(limits).model_dump(exclude_defaults=True, exclude_none=True) == limits


def test_an_upstream_limits_no_answers():
    with pytest.raises(ValidationError, match="max_output_tokens"):
        Quota.model_validate({"max_output_tokens": 5})


def access(**members: Any) -> dict[str, Any]:
    keys = [{"name": "a", "hash": f"sha256:{number * 64}"} for number in "01"]
    keys[1].update(members)
    return {"access": {"keys": keys, "groups": {"teams": {"limits": {"max_concurrent": 1}}}}}


def test_a_group_must_exist_and_all_keys_of_a_caller_have_the_same():
    assert [text for _, text in unknown_names(access(group="team"))] == [
        "'team' is not a name under access.groups; did you mean teams?"
    ]
    for members in (
        {"group": "teams"},
        {"limits": {"max_concurrent": 1}},
        {"end_users": {"limits": {"max_concurrent": 1}}},
    ):
        assert [path[-1] for path, _ in different_keys(access(**members))] == [*members]
    assert [*unknown_names({"access": {"groups": 5, "keys": []}})] == []


def test_limits_stand_at_keys_groups_models_operations_and_upstreams():
    limits = {"requests": {"minute": 5}}
    config = Config.model_validate(
        {
            "upstreams": {"u": {"base_url": "http://127.0.0.1/v1", "limits": limits}},
            "models": {"m": {"upstream": "u", "limits": limits}},
            "operations": {"chat": {"limits": limits}},
            "access": {
                "groups": {"g": {"limits": limits}},
                "keys": [{"name": "a", "hash": f"sha256:{'0' * 64}", "group": "g", "limits": limits}],
            },
        }
    )
    assert config.access.keys[0].limits == config.models["m"].limits


def test_days_and_months_need_a_store():
    limits = {"requests": {"hour": 5, "day": 5}, "tokens": {"month": 5, "day": None}}
    tree: dict[str, Any] = {
        "access": {
            "groups": {"g": {"limits": limits}},
            "keys": [{"name": "a", "limits": limits, "end_users": {"limits": limits}}],
        },
        **{block: {"one": {"limits": limits}} for block in ("models", "operations", "upstreams")},
    }
    faults = [*forgotten_limits(tree)]
    assert {text for _, text in faults} == {"needs `store`, because a restart would forget it"}
    of_key = ("access", "keys", 0)
    places = [of_key, (*of_key, "end_users"), ("access", "groups", "g"), ("models", "one"), ("operations", "one")]
    assert [path for path, _ in faults] == [
        (*place, "limits", *span)
        for place in (*places, ("upstreams", "one"))
        for span in (("requests", "day"), ("tokens", "month"))
    ]
    assert [*forgotten_limits({**tree, "store": {"url": "valkey://127.0.0.1"}})] == []


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
