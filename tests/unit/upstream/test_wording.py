from gatepass.upstream.wording import clean, compact, quotable, unmasked


def test_text_keeps_its_lines_and_loses_what_no_reader_wants():
    said = "  first\t\tline\r\nsecond \x00\x1b[31m line\r\r\r\rthird\u2028 \n"
    assert clean(said, unmasked) == "first line\nsecond [31m line\n\nthird"


def test_text_is_cut_with_a_sign():
    assert clean("abcdef", unmasked, 6) == "abcdef"
    assert clean("abcdefg", unmasked, 6) == "abcde…"
    assert clean("abc  efg", unmasked, 5) == "abc…"


def test_secret_at_the_cut_is_masked_first():
    assert clean("abc-secret", lambda text: text.replace("secret", "***"), 7) == "abc-***"


def test_lone_surrogate_does_not_break_the_reply():
    assert clean("a\ud800b", unmasked) == "a?b"
    assert quotable({"a\ud800": "\ud800"}, unmasked) == {"a?": "?"}


def test_json_that_cannot_be_written_is_none():
    assert compact({"a": [1, "ü"]}) == '{"a":[1,"ü"]}'
    assert compact({1: {2, 3}}) is None


def test_object_is_kept_up_to_its_bound():
    assert quotable({"a": "x" * 4088}, unmasked) == {"a": "x" * 4088}
    assert quotable({"a": "x" * 4089}, unmasked) is None


def test_object_too_deep_to_mask_is_dropped():
    deep: list[object] = []
    for _ in range(64):
        deep = [deep]
    assert quotable(deep, unmasked) == deep
    assert quotable([deep], unmasked) is None
