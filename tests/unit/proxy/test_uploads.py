"""A form between two connections: its beginning is kept, the rest is not."""

import pytest

from gatepass.config.model import Limits
from gatepass.errors import InvalidRequest, Overloaded
from gatepass.proxy.in_flight import MemoryBudget, RequestMemory
from gatepass.proxy.uploads import KEPT_BYTES, MultipartScan, MultipartUpload
from gatepass.types import Operation
from tests.memory import traced_memory

PART = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
END = b"--b--\r\n"
LONG = bytes(KEPT_BYTES)


class Sender:
    """A client whose body arrives in these pieces; None is a new one of half KEPT_BYTES."""

    def __init__(self, *pieces):
        self.pieces = [*pieces]

    async def read_piece(self, limit_bytes):
        assert limit_bytes == 9
        piece = self.pieces.pop(0) if self.pieces else b""
        return bytes(KEPT_BYTES // 2) if piece is None else piece


def form(*pieces, operation="transcriptions"):
    return over(pieces, sum(map(len, pieces)), operation=operation)


def over(pieces, length, held=KEPT_BYTES, *, operation="transcriptions", names_model=True):
    one = Operation(operation, "POST", "/x", "raw", "", takes_form=True, names_model=names_model)
    return MultipartUpload(
        Sender(*pieces).read_piece, one, Limits(upload_bytes=9, body_bytes=held), MultipartScan(b"b"), length
    )


def counted(budget, *pieces, caller="a"):
    one = over(pieces, None, held=4 * KEPT_BYTES)
    one.memory = RequestMemory(budget, caller)
    return one


async def test_the_bytes_that_are_kept_count_for_the_caller():
    budget = MemoryBudget(3 * KEPT_BYTES, callers=2)
    first, second = (counted(budget, PART % (b"file", b"x") + LONG, LONG) for _ in range(2))
    await first.read()
    await first.read()
    assert budget.by_caller == {"a": first.bytes_in}
    with pytest.raises(Overloaded, match=r"limits\.held_bytes"):
        await second.read()
    other = await begun(counted(budget, PART % (b"model", b"w") + PART % (b"file", LONG), END, caller="b"))
    assert other.model == "w"


async def test_forwarded_pieces_release_their_memory():
    budget = MemoryBudget(KEPT_BYTES, callers=2)
    one = await begun(counted(budget, PART % (b"model", b"w"), PART % (b"file", LONG), END))
    body = await sent(one.as_model(None))
    assert (body, budget.total_bytes) == (PART % (b"model", b"w") + PART % (b"file", LONG) + END, 0)
    assert not one.as_model(None).can_restart()


async def test_a_form_that_the_upstream_has_begun_to_read_is_not_refused():
    budget = MemoryBudget(2 * KEPT_BYTES, callers=2)
    first, other = RequestMemory(budget, "a"), RequestMemory(budget, "a")
    first.claim(KEPT_BYTES // 2)
    file = PART % (b"file", bytes(KEPT_BYTES // 4))
    one = await begun(counted(budget, PART % (b"model", b"w"), file, file, END))
    other.add(KEPT_BYTES * 2)
    assert await sent(one.as_model(None)) == PART % (b"model", b"w") + file + file + END
    assert (one.is_kept, budget.total_bytes) == (False, first.held_bytes + other.held_bytes)


async def begun(one):
    await one.begin()
    return one


async def sent(upload):
    return b"".join([piece async for piece in upload])


async def test_a_form_is_read_until_its_model_is_known_and_no_further():
    one = await begun(form(PART % (b"model", b"w"), PART % (b"file", b"x"), END))
    assert (one.model, one.bytes_in) == ("w", len(PART % (b"model", b"w")) + len(PART % (b"file", b"x")))
    upload = one.as_model(None)
    assert upload.length_bytes == len(PART % (b"model", b"w") + PART % (b"file", b"x") + END)
    assert await sent(upload) == PART % (b"model", b"w") + PART % (b"file", b"x") + END
    assert one.bytes_in == upload.length_bytes


@pytest.mark.parametrize("name", ["whisper-large", "w", "v"])
async def test_another_name_replaces_the_model_and_changes_the_length(name):
    one = await begun(form(PART % (b"model", b"w"), PART % (b"file", b"x"), END))
    upload = one.as_model(name)
    whole = await sent(upload)
    assert whole == PART % (b"model", name.encode()) + PART % (b"file", b"x") + END
    assert upload.length_bytes == len(whole)


@pytest.mark.parametrize("name", [None, "w", "whisper-large"])
async def test_a_name_in_single_quotes_is_sent_in_double_quotes(name):
    part, file = PART.replace(b'"', b"'") % (b"model", b"w"), PART % (b"file", b"x")
    for pieces in ((part, file, END), (file, part, END)):
        one = await begun(form(*pieces))
        upload = one.as_model(name)
        expected = b"".join(pieces).replace(part, PART % (b"model", (name or "w").encode()))
        assert await sent(upload) == expected
        assert upload.length_bytes == len(expected)


async def test_a_kept_form_can_be_sent_again_from_the_middle():
    one = await begun(form(PART % (b"model", b"w"), PART % (b"file", b"x"), PART % (b"last", b"y"), END))
    upload = one.as_model("v")
    async for _ in upload:
        break
    assert upload.can_restart()
    first = await sent(upload)
    assert upload.can_restart()
    assert (
        await sent(upload) == first == PART % (b"model", b"v") + PART % (b"file", b"x") + PART % (b"last", b"y") + END
    )


async def test_a_long_form_is_sent_once_and_not_kept():
    pieces = (PART % (b"model", b"w"), PART[:-2] % (b"file", LONG), LONG, b"\r\n", END)
    one = await begun(form(*pieces))
    upload = one.as_model("v")
    assert upload.can_restart()
    assert len(await sent(upload)) == upload.length_bytes == sum(map(len, pieces))
    assert not upload.can_restart()


async def test_a_form_that_is_not_kept_takes_no_memory():
    beginning = PART % (b"model", b"w") + PART[:-2] % (b"file", b"")
    one = over([beginning, *[None] * 20, b"\r\n" + END], len(beginning) + 10 * KEPT_BYTES)
    with traced_memory() as memory:
        await one.begin()
        async for piece in one.as_model("v"):
            del piece
    assert memory.peak_bytes < 5 * KEPT_BYTES
    assert memory.kept_bytes < 10_000


LATE = (PART[:-2] % (b"file", LONG), LONG, b"\r\n", PART % (b"model", b"w"), END)


async def test_a_model_that_follows_the_sent_beginning_is_an_error():
    one = await begun(form(*LATE))
    assert (one.model, one.bytes_in < 2 * KEPT_BYTES) == (None, True)
    with pytest.raises(InvalidRequest, match="before the file"):
        await sent(one.as_model(None))


async def test_a_form_that_can_be_kept_is_read_until_its_model_is_known():
    size = sum(map(len, LATE))
    for length, held in ((size, size), (None, size), (size, size - 1)):
        one = await begun(over(LATE, length, held))
        assert one.model == ("w" if held == size else None)
        if held == size:
            upload = one.as_model("v")
            assert await sent(upload) == await sent(upload) == b"".join(LATE).replace(b"\r\nw\r\n", b"\r\nv\r\n")


async def test_a_model_cut_at_the_end_of_the_searched_bytes_is_read():
    head, value = PART.split(b"\r\n\r\n")
    one = await begun(form(PART % (b"file", LONG) + head % b"model" + b"\r\n\r\n", value % b"w", END))
    assert one.model == "w"


FILE = PART % (b"file", b"x")


@pytest.mark.parametrize("before", [b"", b"\r\n"], ids=["at once", "after an empty line"])
@pytest.mark.parametrize("body", [FILE + END, END], ids=["a part", "no part"])
async def test_a_form_without_a_model_gets_it_as_its_first_part(before, body):
    named = before + PART % (b"model", b"w") + body
    for at in range(1, len(before + body)):
        one = await begun(form((before + body)[:at], (before + body)[at:]))
        upload = one.as_model("w")
        assert await sent(upload) == await sent(upload) == named
        assert (upload.length_bytes, upload.adapted) == (len(named), ("default=model",))


async def test_each_upload_of_a_form_lists_only_its_own_changes():
    one = await begun(form(FILE, END))
    assert [one.as_model(name).adapted for name in ("there", None)] == [("default=model",), ()]


async def test_the_error_of_a_late_model_names_the_setting_of_its_operation():
    one = await begun(form(*LATE, operation="translations"))
    assert "operations.translations.model" in one.unrouted_error().message
    with pytest.raises(InvalidRequest, match=r"operations\.translations\.model"):
        await sent(one.as_model(None))


async def test_a_form_of_unknown_length_keeps_an_unknown_length():
    one = await begun(over((PART % (b"model", b"w"), END), None))
    assert one.as_model("v").length_bytes is None


async def test_without_a_model_one_piece_is_read_and_not_searched():
    for length in (None, 9, 9 * KEPT_BYTES):
        pieces = (PART[:-2] % (b"file", LONG), LONG, b"\r\n", PART % (b"model", b"w"), END)
        one = await begun(over(pieces, length, names_model=False))
        assert one.bytes_in == len(pieces[0])
        assert await sent(one.as_model("u")) == b"".join(pieces)


async def test_a_form_of_an_operation_without_a_model_is_still_checked():
    one = over((b"nonsense",), None, names_model=False)
    with pytest.raises(InvalidRequest, match="boundary"):
        await one.begin()
