"""docs/upgrade.md lists the settings of the table in config/changes.py."""

from docs.setting_reference import changed_settings

from gatepass.config.changes import SettingChange


def test_the_newest_version_is_first():
    changes = (
        SettingChange("0.1.0", "default", ("limits", "event_bytes"), "It is 4 MiB."),
        SettingChange("0.2.0", "removed", ("retries",), "Nothing is tried again."),
    )
    listed = changed_settings(changes)
    assert listed.startswith("### 0.2.0\n\n- **`retries`** (removed): Nothing is tried again.\n\n### 0.1.0\n")
    assert listed.endswith("](reference/configuration.md#limitsevent_bytes)** (default): It is 4 MiB.")
