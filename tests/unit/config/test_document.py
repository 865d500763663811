from gatepass.config.document import Document, Origin


def test_a_value_without_an_origin_belongs_to_its_block_or_its_source():
    document = Document("f", {}, {("a",): Origin("f", 3)})
    assert [str(document.origin(path)) for path in (("a", "b", "c"), ("b",))] == ["f:3", "f"]
