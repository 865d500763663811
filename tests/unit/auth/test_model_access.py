"""Models that a request names in the tools, plugins and presets of OpenRouter."""

from __future__ import annotations

import pytest

from gatepass.auth.model_access import check_body_access
from gatepass.config.access import AccessKey
from gatepass.errors import ModelNotAllowed

LIMITED = AccessKey(name="bot", hash="sha256:" + "0" * 64, models=["gpt-a"])


def check(members: str) -> None:
    check_body_access(LIMITED, f'{{"model":"gpt-a",{members}}}'.encode(), names_model=True)


@pytest.mark.parametrize(
    "members",
    [
        '"plugins":[{"id":"web"},{"id":"fusion","model":"b"}]',
        '"plugins":[{"id":"fusion","analysis_models":["gpt-a","b"]}]',
        '"Plugins":[{"id":"fusion","analysisModels":["b"]}]',
        '"plugins":[{"id":"auto-router","allowed_models":["openai/*"]}]',
        '"plugins":[{"id":"x","api_key":"k"}]',
        '"preset":"translator"',
        '"fallback":"b"',
        '"extra_body":{"plugins":[{"id":"fusion","m\\u006fdel":"b"}]}',
        '"tools":[{"type":"openrouter:fusion","parameters":{"analysis_models":["b"]}}]',
        '"tools":[{"type":"openrouter:fusion","parameters":{"model":"b"}}]',
        '"tools":[{"type":"openrouter:fusion","Parameters":{"Model":"b"}}]',
        '"input":[{"type":"additional_tools","tools":[{"type":"openrouter:fusion","parameters":{"model":"b"}}]}]',
    ],
)
def test_no_plugin_tool_or_preset_names_another_model(members: str) -> None:
    with pytest.raises(ModelNotAllowed):
        check(members)


@pytest.mark.parametrize(
    "members",
    [
        '"plugins":[{"id":"web","max_results":3},{"id":"fusion","model":"gpt-a","analysis_models":["gpt-a"]}]',
        '"plugins":{"model":"b"},"tools":[{"type":"openrouter:fusion","parameters":{"model":"gpt-a","max_tool_calls":2}}]',
        '"plugins":["model"],"tools":[{"type":"function","name":"f","parameters":{"properties":{"model":{"const":"b"}}}}]',
        '"tools":[{"type":"function","name":"f","parameters":{"properties":{"models":{}},"required":["model"]}}]',
    ],
)
def test_own_models_and_schemas_pass(members: str) -> None:
    check(members)
