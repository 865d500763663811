"""Makes a PNG of a screen smaller: 256 colours instead of 16 million."""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import partial

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB, PALETTE = 2, 3
COLOURS, FREQUENT = 256, 160

Colour = tuple[int, int, int]


def with_palette(png: bytes) -> bytes:
    """Return an RGB picture with 256 of its colours: the most frequent, and of the others those that differ most.

    Each other colour becomes the nearest of these.
    """
    chunks = list(_chunks(png))
    header = next(data for name, data in chunks if name == b"IHDR")
    width, height, depth, kind = struct.unpack(">IIBB", header[:10])
    assert (depth, kind) == (8, RGB)
    rows = _rows(zlib.decompress(b"".join(data for name, data in chunks if name == b"IDAT")), 3 * width)
    pixels = [list(zip(row[::3], row[1::3], row[2::3], strict=True)) for row in rows]
    counts = Counter(pixel for row in pixels for pixel in row)
    palette = [colour for colour, _ in counts.most_common(FREQUENT)]
    left = {colour: min(_distance(colour, one) for one in palette) for colour in counts.keys() - set(palette)}
    while left and len(palette) < COLOURS:
        palette.append(max(left, key=lambda colour: (left[colour], colour)))
        left = {
            colour: min(far, _distance(colour, palette[-1]))
            for colour, far in left.items()
            if far and colour != palette[-1]
        }
    index = {colour: number for number, colour in enumerate(palette)}
    for colour in counts.keys() - index.keys():
        index[colour] = index[min(palette, key=partial(_distance, colour))]
    data = b"".join(b"\x00" + bytes(map(index.__getitem__, row)) for row in pixels)
    return SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, PALETTE, 0, 0, 0)),
            _chunk(b"PLTE", bytes(value for colour in palette for value in colour)),
            _chunk(b"IDAT", zlib.compress(data, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _distance(one: Colour, other: Colour) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        at += size + 12


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _rows(data: bytes, width: int) -> Iterator[bytes]:
    """Undo the filters of the lines (PNG specification, section 9). `width` is in bytes, and a pixel has three."""
    above = bytearray(width)
    for at in range(0, len(data), width + 1):
        kind, row = data[at], bytearray(data[at + 1 : at + 1 + width])
        for i in range(width) if kind else ():
            left, up, corner = (row[i - 3], above[i], above[i - 3]) if i >= 3 else (0, above[i], 0)
            row[i] = (row[i] + _predicted(kind, left, up, corner)) & 255
        yield bytes(row)
        above = row


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind < 4:
        return (0, left, up, (left + up) // 2)[kind]
    estimate = left + up - corner
    distances = abs(estimate - left), abs(estimate - up), abs(estimate - corner)
    return (left, up, corner)[distances.index(min(distances))]
