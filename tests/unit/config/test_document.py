from gatepass.config.document import ConfigDocument, ValueOrigin, leaves, lookup, matches, with_value


def test_a_value_without_an_origin_belongs_to_its_block_or_its_source():
    document = ConfigDocument("f", {}, {("a",): ValueOrigin("f", 3)})
    assert [str(document.origin(path)) for path in (("a", "b", "c"), ("b",))] == ["f:3", "f"]


TREE = {"a": {"x": {"n": 1}, "y": {"n": 2, "m": [3, {"n": 4}]}}, "b": None}


def test_a_pattern_matches_names_and_indexes():
    assert list(matches(TREE, ("a", "*", "n"))) == [(("a", "x", "n"), 1), (("a", "y", "n"), 2)]
    assert list(matches(TREE, ("a", "y", "m", "*"))) == [(("a", "y", "m", 0), 3), (("a", "y", "m", 1), {"n": 4})]
    assert list(matches(TREE, ("b", "*", "n"))) == []
    assert list(matches(TREE, ())) == [((), TREE)]


def test_leaves_have_their_paths():
    assert list(leaves({"a": [1, {"b": None}], "c": {}})) == [(("a", 0), 1), (("a", 1, "b"), None), (("c",), {})]


def test_lookup_finds_a_value_or_nothing():
    assert lookup(TREE, ("a", "y", "m", 1, "n")) == 4
    assert lookup(TREE, ("a", "z", "m")) is None
    assert lookup(TREE, ("b", "x")) is None


def test_replacing_copies_and_makes_what_is_missing():
    tree = {"a": [{"n": 1}, {"n": 2}]}
    assert with_value(tree, ("a", 1, "n"), 3) == {"a": [{"n": 1}, {"n": 3}]}
    assert with_value(tree, ("b", "c"), 3) == {"a": [{"n": 1}, {"n": 2}], "b": {"c": 3}}
    assert with_value(None, ("b",), 3) == {"b": 3}
    assert tree == {"a": [{"n": 1}, {"n": 2}]}
