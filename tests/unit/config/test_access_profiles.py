"""Profiles of clients."""

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.normalize.members import JsonMemberPath


def test_member_paths_of_the_profiles_are_valid():
    for profile in BUILT_IN_PROFILES.values():
        for place in (*profile.drop, *profile.drop_null, *(each for one in profile.drop_for.values() for each in one)):
            assert str(JsonMemberPath.parse(place)) == place
