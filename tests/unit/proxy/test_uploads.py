"""Forms whose model is found and renamed."""

import pytest

from gatepass.errors import InvalidRequest
from gatepass.proxy.uploads import SCANNED_BYTES, Form, MultipartScan

PART = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
END = b"--b--\r\n"
MODEL, FILE = PART % (b"model", b"w"), PART % (b"file", b"x" * 2 * SCANNED_BYTES)


async def read(body: bytes) -> Form:
    return await Form.read(body, MultipartScan(b"b"))


@pytest.mark.parametrize("body", [MODEL + FILE + END, FILE + MODEL + END], ids=["first", "last"])
@pytest.mark.parametrize("name", ["whisper-large", "w", "v", ""])
async def test_another_name_replaces_the_model_and_nothing_else(body, name):
    form = await read(body)
    assert form.scan.model == "w"
    changed, adapted = form.as_model(name)
    assert changed == (body.replace(MODEL, PART % (b"model", name.encode())) if name else body)
    assert (changed is body, adapted) == (name in ("w", ""), ())


@pytest.mark.parametrize("before", [b"", b"\r\n"], ids=["at once", "after an empty line"])
@pytest.mark.parametrize("rest", [FILE + END, END], ids=["a part", "no part"])
async def test_a_form_without_a_model_gets_it_as_its_first_part(before, rest):
    form = await read(before + rest)
    assert form.as_model("w") == (before + MODEL + rest, ("default=model",))
    assert form.as_model("") == (before + rest, ())


@pytest.mark.parametrize(
    "body", [MODEL + FILE, FILE + MODEL + MODEL + END, MODEL.replace(b'"', b"'") + END, b"nonsense", b""]
)
async def test_a_form_that_parsers_read_differently_is_refused(body):
    with pytest.raises(InvalidRequest):
        await read(body)
