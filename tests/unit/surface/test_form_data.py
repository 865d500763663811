"""Where the model stands in a form that comes in pieces."""

import pytest

from gatepass.errors import InvalidRequest
from gatepass.surface.form_data import HEAD_BYTES, FormScan, boundary_of

BOUNDARY = b"b-1"


def part(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'--b-1\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name, more, value)


END = b"--b-1--\r\n"
FILE = part(b"file", b'\0\r\nname="model"\r\n--b-2\r\n', b'; filename="a.wav"\r\nContent-Type: audio/wav')


def scanned(form: bytes, size: int) -> FormScan:
    scan = FormScan(BOUNDARY)
    for at in range(0, len(form), size):
        scan.feed(form[at : at + size])
    return scan


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "form",
    [
        part(b"model", b"w-1") + FILE + END,
        FILE + part(b"model", b"w-1") + END,
        b"preamble\r\n" + part(b"language", b"en") + part(b"model", b"w-1") + END,
        FILE + part(b"model", b"w-1").replace(b'"model"', b"model") + END,
        part(b"model", b"w-1", b"; x=y").replace(b"Content-D", b"content-type: text/plain\r\ncontent-d") + END,
    ],
)
def test_the_model_and_its_place_are_found_however_the_form_is_cut(form, size):
    scan = scanned(form, size)
    assert scan.model == "w-1"
    assert scan.span is not None
    assert form[slice(*scan.span)] == b"w-1"


@pytest.mark.parametrize("at", range(1, len(part(b"model", b"w-1") + FILE + END)))
def test_one_cut_anywhere_changes_nothing(at):
    form, scan = part(b"model", b"w-1") + FILE + END, FormScan(BOUNDARY)
    scan.feed(form[:at])
    scan.feed(form[at:])
    assert (scan.model, form[slice(*(scan.span or (0, 0)))]) == ("w-1", b"w-1")


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("form", [FILE + END, part(b"models", b"w-1") + END, b"", b"no form at all"])
def test_a_form_without_a_model_has_none(form, size):
    assert scanned(form, size).model is None


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("form", "told"),
    [
        (part(b"model", b"a") + FILE + part(b"model", b"b") + END, "twice"),
        (part(b"model", b"") + END, "empty"),
        (part(b"model", b"a\x01") + END, "control character"),
        (part(b"model", b"\xff") + END, "UTF-8"),
        (part(b"model", b"x" * 5000) + END, "longer"),
        (b"--b-1\r\n" + b"x: y\r\n" * HEAD_BYTES, "head of a part"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(form, told, size):
    with pytest.raises(InvalidRequest, match=told):
        scanned(form, size if len(form) < 50_000 else 4096)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_what_only_begins_like_a_delimiter_hides_no_part(size):
    junk = b'\r\n--b-1JUNK\r\nContent-Disposition: form-data; name="a"\r\n--b-1\r\n'
    form = part(b"file", junk[:-9]) + part(b"model", b"w-1") + END
    assert scanned(form, size).model == "w-1"
    with pytest.raises(InvalidRequest, match="twice"):
        scanned(part(b"model", b"a") + part(b"file", junk[:-9]) + part(b"model", b"w-1") + END, size)


def test_what_stands_behind_the_form_is_not_looked_at():
    assert scanned(part(b"model", b"w-1") + END + b"x" * 3 * HEAD_BYTES + part(b"model", b"b"), 999).model == "w-1"


def test_a_large_file_is_not_held():
    scan = FormScan(BOUNDARY)
    scan.feed(part(b"model", b"w-1") + FILE[:-20])
    for _ in range(100):
        scan.feed(b"\r\n" * 5000)
    assert len(scan._rest) < 100


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        (b"multipart/form-data; boundary=b-1", b"b-1"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        (b"multipart/form-data", None),
        (b"application/json; boundary=b", None),
        (b"multipart/form-data; boundary=" + b"x" * 71, None),
    ],
)
def test_the_boundary_is_what_the_content_type_says(kind, boundary):
    assert boundary_of(((b"content-type", kind),)) == boundary
    assert boundary_of(()) is None
