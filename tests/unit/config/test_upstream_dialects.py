import pytest

from gatepass.config.upstream import (
    AzureConfig,
    url_with_version,
)


@pytest.mark.parametrize(
    ("version", "is_classic"),
    [(None, False), ("v1", False), ("2025-04-01-preview", True)],
)
def test_versions_of_the_classic_api_are_dates(version, is_classic):
    assert AzureConfig(api_version=version).is_classic == is_classic


@pytest.mark.parametrize(
    ("dialect", "base_url", "expected"),
    [
        ("openai", "https://llm.example/", "https://llm.example/v1"),
        ("openai", "https://llm.example/api", "https://llm.example/api/v1"),
        ("openai", "https://llm.example/v4", None),
        ("openai", "https://llm.example/v1beta/openai", None),
        ("azure", "https://llm.example", None),
        ("ragflow", "https://llm.example", None),
    ],
)
def test_a_base_url_without_its_version_gets_one(dialect, base_url, expected):
    assert url_with_version(dialect, base_url) == expected
