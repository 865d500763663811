"""Profiles of clients: the built-in ones, and an operator's changes of them."""

from dataclasses import replace

from gatepass.config.access import BUILT_IN_PROFILES, PLAIN, Profile, ProfileSettings, resolved
from gatepass.normalize.members import JsonMemberPath


def test_member_paths_of_built_in_profiles_are_valid():
    for profile in BUILT_IN_PROFILES.values():
        for place in (*profile.drop, *profile.drop_null, *(each for one in profile.drop_for.values() for each in one)):
            assert str(JsonMemberPath.parse(place)) == place


def test_no_built_in_profile_opens_gatepass_to_pages():
    assert [name for name, profile in BUILT_IN_PROFILES.items() if profile.cors_origins] == []


def test_omitted_settings_keep_the_built_in_profiles_values():
    found = resolved(
        {
            "ragflow": ProfileSettings(keep_alive="off"),
            "lobechat": ProfileSettings(cors_origins=["https://chat.corp"]),
        }
    )
    assert found["ragflow"] == replace(BUILT_IN_PROFILES["ragflow"], keep_alive="off")
    assert found["lobechat"] == Profile(cors_origins=["https://chat.corp"])
    assert found["dify"] is BUILT_IN_PROFILES["dify"]


def test_an_entry_of_another_name_begins_with_what_it_is_like():
    found = resolved({"intranet": ProfileSettings(extends="cherry_studio", drop=["user"]), "bare": ProfileSettings()})
    assert found["intranet"] == Profile(extends="cherry_studio", plain_tools=True, drop=["user"])
    assert found["bare"] == PLAIN
