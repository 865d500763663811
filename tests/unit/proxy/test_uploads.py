"""Forms: their model is found and renamed, and what parsers could read differently is refused."""

import pytest

from gatepass.errors import InvalidRequest, UnsupportedHead
from gatepass.proxy.uploads import HEAD_BYTES, SEARCHED_BYTES, Form, boundary_of


def part(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'--b-1\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name, more, value)


END = b"--b-1--\r\n"
MODEL, EVIL = part(b"model", b"w-1"), part(b"model", b"evil")
FILE = part(b"file", b'\0\r\nname="model"\r\n--b-2\r\n', b'; filename="a.wav"\r\nContent-Type: audio/wav')


async def read(body: bytes) -> Form:
    return await Form.read(body, b"b-1")


def of_file(more: bytes) -> bytes:
    return part(b"file", b"x", more) + MODEL + END


@pytest.mark.parametrize(
    "body",
    [
        MODEL + FILE + END,
        FILE + MODEL + END,
        b"\r\n" + part(b"language", b"en") + MODEL + END[:-2],
        FILE + MODEL.replace(b'"model"', b"model") + END,
        MODEL.replace(b"Content-D", b"content-type: text/plain\r\ncontent-d") + END,
        part(b"empty", b"") + MODEL + END,
        part(b"include[]", b"logprobs") + MODEL + END + b"\r\n",
        of_file(b"; filename=a.wav; filename*=utf-8''a%20.wav"),
        of_file(b"; filename*=utf-8''a%20.wav"),
        of_file('; filename="Grüße; 名 1.m4a"'.encode()),
        of_file(b'; filename="C:\\a; b"\r\nContent-Length: 1\r\nContent-Transfer-Encoding: Binary'),
        part(b"file", b"\r\n" * SEARCHED_BYTES) + MODEL + END,
    ],
)
@pytest.mark.parametrize("name", ["whisper-large", "w-1", "v", ""])
async def test_another_name_replaces_the_model_and_nothing_else(body, name):
    form = await read(body)
    assert (form.model, body[slice(*(form.span or (0, 0)))]) == ("w-1", b"w-1")
    changed, adapted = form.as_model(name)
    assert changed == (body.replace(b"\r\nw-1\r\n", b"\r\n%b\r\n" % name.encode()) if name else body)
    assert (changed is body, adapted) == (name in ("w-1", ""), ())


async def test_a_boundary_is_found_wherever_the_search_pauses():
    around = len(part(b"file", b""))
    for size in range(SEARCHED_BYTES - around, SEARCHED_BYTES + around):
        assert (await read(part(b"file", bytes(size)) + MODEL + END)).model == "w-1"


@pytest.mark.parametrize("before", [b"", b"\r\n"], ids=["at once", "after an empty line"])
@pytest.mark.parametrize("rest", [FILE + END, part(b"models", b"w-1") + END, END], ids=["a part", "models", "no part"])
async def test_a_form_without_a_model_gets_it_as_its_first_part(before, rest):
    form = await read(before + rest)
    assert form.model is None
    assert form.as_model("w-1") == (before + MODEL + rest, ("default=model",))
    assert form.as_model("") == (before + rest, ())


DISPOSITION = b'Content-Disposition: form-data; name="model"'


@pytest.mark.parametrize(
    "unclear",
    [
        EVIL.replace(b"form-data; name", b'form-data; x="; name=y"; name'),
        EVIL.replace(b"form-data; name", b"form-data;\r\n name"),
        EVIL.replace(b'name="model"', b"name*=utf-8''model"),
        EVIL.replace(b'name="model"', b'name = "model"'),
        EVIL.replace(b'"model"', b'"m\\odel"'),
        EVIL.replace(b'"model"', b'"x"; name="model"'),
        EVIL.replace(b'name="model"', b'name="x"; filename="a\\"; name="model"'),
        EVIL.replace(b'name="model"', b'name="model"; filename="a"'),
        EVIL.replace(b"Disposition:", b"Disposition :"),
        EVIL.replace(b'"model"', b'"model "'),
        EVIL.replace(b'"model"', b'"mod%65l"'),
        EVIL.replace(b'"model"', b"\"'model'\""),
        EVIL.replace(b'"model"', b"'model"),
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
        b'\r\n--b-1JUNK\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n',
        part(b"a", b"x--b-1\r\n"),
        part(b"file name", b"x"),
        part(b"a", b"x", b"\r\nX-Field: y"),
        part(b"a", b"x", b"\r\nContent-Length: 1\r\ncontent-length: 1"),
        part(b"a", b"x", b'; filename="a"; filename="b"'),
        part(b"file", b"x", b'; filename="a; Name *= b"'),
    ],
)
async def test_a_part_that_parsers_read_differently_is_rejected(unclear):
    good = part(b"language", b"en")
    for form in (unclear + good + END, good + unclear + END):
        with pytest.raises(InvalidRequest):
            await read(form)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (MODEL + FILE + EVIL + END, "twice"),
        (part(b"Model", b"a") + END, 'Write it as name="model"'),
        (part(b"model[x]", b"a") + END, 'Write it as name="model"'),
        (part(b"model", b"") + END, "empty"),
        (part(b"model", b"a\x01") + END, "control character"),
        (part(b"model", b"\xff") + END, "UTF-8"),
        (part(b"model", b"x" * 5000) + END, "longer"),
        (part(b"model", b"x", b'; filename="a"') + END, "not a file"),
        (b"--b-1\r\n" + b"x: y\r\n" * HEAD_BYTES, "head of a part"),
        (MODEL + b"--b-1\r\nContent-Dis", "ends in the head"),
        (part(b"file", b"\r\n--b-1more") + MODEL + END, "begins with its boundary"),
        (b"no form at all", "does not begin"),
        (b"preamble\r\n" + MODEL + END, "does not begin"),
        (b"", "does not begin"),
        (FILE, "ends before"),
        (FILE[:-1], "ends before"),
        (MODEL + END[:-4], "does not end there"),
        (END + MODEL, "after the end"),
        (END + b"x", "after the end"),
    ],
)
async def test_a_form_that_could_be_read_differently_is_rejected(form, message):
    with pytest.raises(InvalidRequest, match=message):
        await read(form)


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        (b"multipart/form-data; boundary=b-1", b"b-1"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a=b"', b"a=b"),
        (b"multipart/form-data;Boundary=----WebKitFormBoundary0aZ", b"----WebKitFormBoundary0aZ"),
        (b"multipart/form-data; boundary=b-1; charset=UTF-8", b"b-1"),
    ],
)
def test_the_boundary_is_that_of_the_content_type(kind, boundary):
    assert boundary_of(((b"content-type", kind),)) == boundary


@pytest.mark.parametrize(
    "fields", [(), ((b"content-type", b"multipart/form-data"),), ((b"content-type", b"application/json; boundary=b"),)]
)
def test_a_body_that_is_no_form_is_refused(fields):
    with pytest.raises(UnsupportedHead):
        boundary_of(fields)


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


@pytest.mark.parametrize("body", [b"--B", b"--B\r\n", b'--B\nContent-Disposition: form-data; name="a"\n\nx\n--B--\n'])
async def test_a_boundary_of_one_character_is_read_like_a_longer_one(body):
    with pytest.raises(InvalidRequest):
        await Form.read(body, b"B")
