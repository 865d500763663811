"""docs/upgrade.md lists the settings of the table in config/changes.py."""

from docs.changed_settings import PAGE, with_changes

from gatepass.config.changes import SettingChange


def test_the_list_of_changed_settings_is_not_stale():
    page = PAGE.read_text()
    assert page == with_changes(page), "run `make reference`"
    assert "### 0.1.0" in page


def test_the_newest_version_is_first():
    changes = (
        SettingChange("0.1.0", "default", ("limits", "event_bytes"), "It is 4 MiB."),
        SettingChange("0.2.0", "removed", ("retries",), "Nothing is tried again."),
    )
    page = with_changes(PAGE.read_text(), changes)
    assert page.index("### 0.2.0") < page.index("### 0.1.0")
    assert "- **`retries`** (removed): Nothing is tried again.\n" in page
    assert (
        "- **[`limits.event_bytes`](reference/configuration.md#limitsevent_bytes)** (default): It is 4 MiB.\n" in page
    )
