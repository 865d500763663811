"""Forms: a whole one whose model is found and renamed, and a streamed one whose beginning is kept."""

import pytest

from gatepass.errors import InvalidRequest, Overloaded
from gatepass.proxy.in_flight import MemoryBudget, RequestMemory
from gatepass.proxy.uploads import KEPT_BYTES, MOST_STREAMED_BYTES, SCANNED_BYTES, Form, FormStream, MultipartScan
from tests.memory import traced_memory

PART = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
END = b"--b--\r\n"
MODEL, FILE = PART % (b"model", b"w"), PART % (b"file", b"x" * 2 * SCANNED_BYTES)
LONG = bytes(KEPT_BYTES)


async def read(body: bytes) -> Form:
    return await Form.read(body, MultipartScan(b"b"))


# --- a form that needs its model


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


# --- a form without a model


class Sender:
    """A client whose body arrives in these pieces; None is a new one of half KEPT_BYTES."""

    def __init__(self, *pieces):
        self.pieces = [*pieces]

    async def read_piece(self, limit_bytes):
        assert limit_bytes == MOST_STREAMED_BYTES
        piece = self.pieces.pop(0) if self.pieces else b""
        return bytes(KEPT_BYTES // 2) if piece is None else piece


async def begun(*pieces, length=None, memory=None):
    one = FormStream(Sender(*pieces).read_piece, MultipartScan(b"b"), length, memory)
    await one.read()
    return one


async def sent(upload):
    return b"".join([piece async for piece in upload])


PIECES = (PART[:-2] % (b"file", LONG), LONG, b"\r\n", MODEL, END)


async def test_one_piece_is_read_before_the_form_is_sent():
    for length in (None, 9):
        one = await begun(*PIECES, length=length)
        assert (one.bytes_in, one.length_bytes) == (len(PIECES[0]), length)
        assert await sent(one) == b"".join(PIECES)
        assert one.bytes_in == sum(map(len, PIECES))


async def test_a_short_form_can_be_sent_again_from_the_middle():
    one = await begun(FILE, PART % (b"last", b"y"), END)
    async for _ in one:
        break
    assert one.can_restart()
    first = await sent(one)
    assert one.can_restart()
    assert await sent(one) == first == FILE + PART % (b"last", b"y") + END


async def test_a_long_form_is_sent_once_and_not_kept():
    one = await begun(*PIECES)
    assert one.can_restart()
    assert await sent(one) == b"".join(PIECES)
    assert not one.can_restart()


async def test_a_form_that_is_not_kept_takes_no_memory():
    one = await begun(PART[:-2] % (b"file", b""), *[None] * 20, b"\r\n" + END)
    with traced_memory() as memory:
        async for piece in one:
            del piece
    assert memory.peak_bytes < 5 * KEPT_BYTES
    assert memory.kept_bytes < 10_000


async def test_the_bytes_that_are_kept_count_for_the_caller_and_are_released_with_them():
    budget = MemoryBudget(2 * KEPT_BYTES, callers=2)
    one = await begun(*PIECES, memory=RequestMemory(budget, "a"))
    assert budget.by_caller == {"a": one.bytes_in}
    await begun(PART % (b"file", LONG), memory=RequestMemory(budget, "a"))
    with pytest.raises(Overloaded, match=r"limits\.held_bytes"):
        await begun(PART % (b"file", LONG), memory=RequestMemory(budget, "a"))
    held = budget.total_bytes
    assert await sent(one) == b"".join(PIECES)
    assert budget.total_bytes < held


async def test_a_form_that_the_upstream_has_begun_to_read_is_not_refused():
    budget = MemoryBudget(2 * KEPT_BYTES, callers=2)
    first, other = RequestMemory(budget, "a"), RequestMemory(budget, "a")
    first.claim(KEPT_BYTES // 2)
    file = PART % (b"file", bytes(KEPT_BYTES // 4))
    one = await begun(file, file, END, memory=RequestMemory(budget, "a"))
    other.add(KEPT_BYTES * 2)
    assert await sent(one) == file + file + END
    assert (one.can_restart(), budget.total_bytes) == (False, first.held_bytes + other.held_bytes)


async def test_a_form_without_a_model_is_still_checked():
    with pytest.raises(InvalidRequest, match="boundary"):
        await begun(b"nonsense")
    one = await begun(FILE, END + b"x")
    with pytest.raises(InvalidRequest, match="after the end"):
        await sent(one)
