"""Find the model in a form that arrives in pieces."""

import pytest

from gatepass.errors import InvalidRequest
from gatepass.proxy.uploads import HEAD_BYTES, MultipartScan, boundary_of
from tests.memory import traced_memory

BOUNDARY = b"b-1"
SIZES = (1, 2, 3, 7, 1000)


def part(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'--b-1\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name, more, value)


END = b"--b-1--\r\n"
FILE = part(b"file", b'\0\r\nname="model"\r\n--b-2\r\n', b'; filename="a.wav"\r\nContent-Type: audio/wav')


def scanned(form: bytes, size: int) -> MultipartScan:
    scan = MultipartScan(BOUNDARY)
    for at in range(0, len(form), size):
        scan.feed(form[at : at + size])
    return scan


@pytest.mark.parametrize(
    "form",
    [
        part(b"model", b"w-1") + FILE + END,
        FILE + part(b"model", b"w-1") + END,
        b"\r\n" + part(b"language", b"en") + part(b"model", b"w-1") + END,
        FILE + part(b"model", b"w-1").replace(b'"model"', b"model") + END,
        part(b"model", b"w-1").replace(b"Content-D", b"content-type: text/plain\r\ncontent-d") + END,
        part(b"file", b"x", b"; filename=a.wav; filename*=utf-8''a%20.wav") + part(b"model", b"w-1") + END,
        part(b"empty", b"") + part(b"model", b"w-1") + END,
    ],
)
def test_the_model_and_its_position_are_found_in_pieces_of_any_size(form):
    for size in SIZES:
        scan = scanned(form, size)
        assert (scan.model, form[slice(*(scan.span or (0, 0)))]) == ("w-1", b"w-1"), f"pieces of {size} bytes"


def test_one_cut_anywhere_changes_nothing():
    form = part(b"model", b"w-1") + FILE + END
    for at in range(1, len(form)):
        scan = MultipartScan(BOUNDARY)
        scan.feed(form[:at])
        scan.feed(form[at:])
        assert (scan.model, form[slice(*(scan.span or (0, 0)))]) == ("w-1", b"w-1"), f"cut at byte {at}"


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("form", [FILE + END, part(b"models", b"w-1") + END, END, END[:-2]])
def test_a_form_without_a_model_has_none(form, size):
    scan = scanned(form, size)
    scan.finish()
    assert scan.model is None


DISPOSITION = b'Content-Disposition: form-data; name="model"'
EVIL = part(b"model", b"evil")


@pytest.mark.parametrize(
    "unclear",
    [
        EVIL.replace(b"form-data; name", b'form-data; x="; name=y"; name'),
        EVIL.replace(b"form-data; name", b'form-data; filename="; name=y"; name'),
        EVIL.replace(b"form-data; name", b"form-data;\r\n name"),
        EVIL.replace(b'name="model"', b"name*=utf-8''model"),
        EVIL.replace(b'name="model"', b'name = "model"'),
        EVIL.replace(b'"model"', b'"m\\odel"'),
        EVIL.replace(b'"model"', b'"x"; name="model"'),
        EVIL.replace(b'name="model"', b'name="x"; filename="a\\"; name="model"'),
        EVIL.replace(b'name="model"', b'name="model"; filename="a"'),
        EVIL.replace(b"Disposition:", b"Disposition :"),
        EVIL.replace(b'"model"', b'"model "'),
        EVIL.replace(b'"model"', b'"model[]"'),
        EVIL.replace(b'"model"', b'"Model"'),
        EVIL.replace(b'"model"', b'"mod%65l"'),
        EVIL.replace(b'"model"', b"\"'model'\""),
        EVIL.replace(b'"model"', b"'model"),
        EVIL.replace(b'"model"', b"'model'; filename=a"),
        EVIL.replace(b'"model"', b'"%22model%22"'),
        EVIL.replace(b"form-data; name", b"form-data;\tname"),
        EVIL.replace(DISPOSITION, b'Content-Disposition: form-data; name="x"\r\n' + DISPOSITION),
        EVIL.replace(b"form-data; name", b"name"),
        EVIL.replace(DISPOSITION, b"Content-Type: text/plain"),
        EVIL.replace(DISPOSITION, DISPOSITION + b"\r\nContent-Transfer-Encoding: base64"),
        EVIL.replace(DISPOSITION, DISPOSITION + b"\r\nContent-Type: text/plain; charset=utf-16"),
        EVIL.replace(b"\r\n", b"\n"),
        EVIL.replace(b"--b-1\r\n", b"--b-1 \r\n"),
        part(b"a", b"x\n--b-1\r\n" + EVIL[7:-2]),
        b'--b-1\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + EVIL,
        b"--b-1\r\n\r\nx\r\n",
    ],
)
def test_a_part_that_parsers_read_differently_is_rejected(unclear):
    good = part(b"language", b"en")
    for form in (unclear + good + END, good + unclear + END):
        for size in (1, 1000):
            with pytest.raises(InvalidRequest):
                scanned(form, size)


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("form", [b"no form at all", b"preamble\r\n" + EVIL + END, END + EVIL, END + b"x"])
def test_bytes_before_or_after_a_form_are_rejected(form, size):
    with pytest.raises(InvalidRequest):
        scanned(form, size)


@pytest.mark.parametrize("form", [b"", FILE, EVIL, EVIL + END[:-4]])
def test_a_form_without_an_end_is_rejected(form):
    scan = scanned(form, 1000)
    with pytest.raises(InvalidRequest, match="ends before"):
        scan.finish()


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("form", "message"),
    [
        (part(b"model", b"a") + FILE + part(b"model", b"b") + END, "twice"),
        (part(b"model", b"a").replace(b'"', b"'") + END, "Write it as"),
        (part(b"Model", b"a") + END, 'Write it as name="model"'),
        (part(b"model", b"") + END, "empty"),
        (part(b"model", b"a\x01") + END, "control character"),
        (part(b"model", b"\xff") + END, "UTF-8"),
        (part(b"model", b"x" * 5000) + END, "longer"),
        (b"--b-1\r\n" + b"x: y\r\n" * HEAD_BYTES, "head of a part"),
    ],
)
def test_a_form_that_could_be_read_differently_is_rejected(form, message, size):
    with pytest.raises(InvalidRequest, match=message):
        scanned(form, size if len(form) < 50_000 else 4096)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_line_that_only_begins_like_a_delimiter_is_rejected(size):
    junk = b'\r\n--b-1JUNK\r\nContent-Disposition: form-data; name="a"'
    with pytest.raises(InvalidRequest, match="begins with its boundary"):
        scanned(part(b"file", junk) + part(b"model", b"w-1") + END, size)


def test_a_large_file_is_not_held():
    scan = MultipartScan(BOUNDARY)
    scan.feed(part(b"model", b"w-1") + FILE[:-20])
    with traced_memory() as memory:
        for _ in range(100):
            scan.feed(b"\r\n" * 5000)
    assert memory.kept_bytes < 1000


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        (b"multipart/form-data; boundary=b-1", b"b-1"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a=b"', b"a=b"),
        (b"multipart/form-data;Boundary=----WebKitFormBoundary0aZ", b"----WebKitFormBoundary0aZ"),
        (b"multipart/form-data", None),
        (b"application/json; boundary=b", None),
    ],
)
def test_the_boundary_is_that_of_the_content_type(kind, boundary):
    assert boundary_of(((b"content-type", kind),)) == boundary
    assert boundary_of(()) is None


@pytest.mark.parametrize(
    "parameters",
    [
        b"boundary=" + b"x" * 71,
        b"boundary=B; boundary=C",
        b'x="; boundary=C"; boundary=B',
        b"boundary*=utf-8''B",
        b'boundary="a b"',
        b'boundary=""',
        b"boundary=B;",
        b"boundary =B",
    ],
)
def test_a_boundary_that_parsers_read_differently_is_rejected(parameters):
    with pytest.raises(InvalidRequest, match="more than one way"):
        boundary_of(((b"content-type", b"multipart/form-data; " + parameters),))
