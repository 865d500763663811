from gatepass.config.problem import Origin
from gatepass.config.renamed import RENAMED, Renamed, with_new_names
from gatepass.config.yaml_file import parse_yaml

TABLE = (
    Renamed(("upstreams", "*", "url"), ("upstreams", "*", "base_url"), "0.3"),
    Renamed(("bodies",), ("log", "bodies"), "0.3"),
    Renamed(("upstreams", "*", "net"), ("upstreams", "*", "network"), "0.3"),
)


def test_nothing_has_been_renamed_so_far():
    assert RENAMED == ()


def test_an_old_name_is_taken_for_the_new_one_with_a_warning():
    document = with_new_names(
        parse_yaml("f.yaml", "upstreams:\n  a: {url: x}\n  b: {base_url: y}\nbodies: true\n"), TABLE
    )
    assert document.tree == {"upstreams": {"a": {"base_url": "x"}, "b": {"base_url": "y"}}, "log": {"bodies": True}}
    assert document.warnings == (
        "f.yaml:2: upstreams.a.url is now called upstreams.a.base_url; the old name is accepted until 0.3",
        "f.yaml:4: bodies is now called log.bodies; the old name is accepted until 0.3",
    )
    assert document.problems == ()
    assert document.origin(("log", "bodies")) == Origin("f.yaml", 4)


def test_a_block_keeps_the_lines_of_its_members():
    document = with_new_names(parse_yaml("f.yaml", "upstreams:\n  a:\n    net:\n      proxy: x\n"), TABLE)
    assert document.tree == {"upstreams": {"a": {"network": {"proxy": "x"}}}}
    assert document.origin(("upstreams", "a", "network", "proxy")) == Origin("f.yaml", 4)


def test_both_names_at_once_are_a_problem():
    document = with_new_names(parse_yaml("f.yaml", "upstreams:\n  a: {url: x, base_url: y}\n"), TABLE)
    assert document.tree == {"upstreams": {"a": {"base_url": "y"}}}
    assert [str(problem) for problem in document.problems] == [
        "f.yaml:2: upstreams.a.url: is the old name of upstreams.a.base_url, which is there too: keep that one"
    ]


def test_without_old_names_the_document_is_the_same():
    document = parse_yaml("f.yaml", "upstreams: {a: {base_url: y}}\n")
    assert with_new_names(document, TABLE) is document
