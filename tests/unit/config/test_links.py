from gatepass.config.links import dangling, unreadable
from gatepass.config.references import Reference


def test_names_that_stand_for_something_are_fine():
    tree = {
        "credentials": {"corp": {}},
        "upstreams": {"chat": {"credential": "corp"}, "open": {"credential": None}},
        "operations": {"chat": {"upstream": "chat"}},
        "models": {"a": {"upstream": "chat"}, "b": {"targets": [{"upstream": "open"}]}},
    }
    assert list(dangling(tree)) == []


def test_names_that_stand_for_nothing_are_told_with_the_nearest_one():
    tree = {
        "credentials": ["corp"],
        "upstreams": {"chat": {"credential": "corp"}},
        "operations": {"chat": {"upstream": "chatt"}},
        "models": {"a": {"upstream": "xyz"}, "b": {"targets": [{"upstream": "chat"}, {"upstream": "cha"}]}},
    }
    assert list(dangling(tree)) == [
        (("upstreams", "chat", "credential"), "'corp' is not a name under credentials"),
        (("operations", "chat", "upstream"), "'chatt' is not a name under upstreams; did you mean chat?"),
        (("models", "a", "upstream"), "'xyz' is not a name under upstreams; there is chat"),
        (("models", "b", "targets", 1, "upstream"), "'cha' is not a name under upstreams; did you mean chat?"),
    ]


def test_a_name_by_reference_is_not_quoted():
    tree = {"upstreams": {"chat": {"credential": Reference.to_variable("WHICH", "topsecret")}}}
    assert list(dangling(tree)) == [(("upstreams", "chat", "credential"), "${WHICH} is not a name under credentials")]


def test_files_of_a_network_must_be_readable(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("x")
    tree = {
        "upstreams": {"a": {"network": {"ca_file": str(file), "client_cert": str(tmp_path / "no")}}},
        "credentials": {"c": {"network": {"client_key": "nul\0", "ca_file": None}}, "d": {"network": {"ca_file": 5}}},
    }
    assert sorted(unreadable(tree)) == [
        (("credentials", "c", "network", "client_key"), "cannot be read: a NUL in its name"),
        (("upstreams", "a", "network", "client_cert"), "cannot be read: No such file or directory"),
    ]
