"""`empirics.data.images`: files of images."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
from hypothesis import strategies as st
from mutator import Files
from target import Target, only

from empirics.data.images import Image, decode, digest, size, verify
from theory.errors import InputError

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def _saved(kind: str, mode: str = "RGB", side: int = 6, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def _seeds() -> list[Files]:
    found = [_saved(kind) for kind in _FORMATS]
    found += [_saved("PNG", mode) for mode in ("L", "P", "1", "RGBA", "LA")]
    found += [_saved("TIFF", "CMYK"), _saved("TIFF", compression="tiff_lzw"), _saved("JPEG", "CMYK"), _saved("GIF", "P", save_all=True)]
    return [{"picture": data} for data in found]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    """PNG and BMP files whose headers say what is not so: sizes up to 2^31, depths, colours, chunks that unpack to much."""
    edge = st.sampled_from([0, 1, 2, 8192, 8193, 2**15, 2**16, 2**26, 2**31 - 1, 2**32 - 1])
    width, height = draw(edge), draw(edge)
    if draw(st.booleans()):
        header = struct.pack(
            "<IiiHHIIiiII",
            40,
            min(width, 2**31 - 1),
            min(height, 2**31 - 1),
            1,
            draw(st.sampled_from([0, 1, 4, 8, 16, 24, 32, 99])),
            draw(st.integers(0, 5)),
            0,
            0,
            0,
            0,
            0,
        )
        return {
            "picture": b"BM"
            + struct.pack("<IHHI", 54, 0, 0, draw(st.sampled_from([0, 54, 2**31])))
            + header
            + bytes(draw(st.integers(0, 60)))
        }
    depth, colour = draw(st.sampled_from([1, 2, 4, 8, 16, 0, 255])), draw(st.integers(0, 7))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, draw(st.integers(0, 2)))
    much = zlib.compress(bytes(draw(st.sampled_from([0, 10, 2**16, 2**22]))))
    extra = _chunk(
        draw(st.sampled_from([b"zTXt", b"iCCP", b"iTXt", b"eXIf", b"PLTE", b"tRNS"])),
        draw(st.sampled_from([b"a\0\0" + much, b"a\0\1\0\0\0" + much, b"", b"\0" * 7])),
    )
    return {"picture": b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", much) + _chunk(b"IEND", b"")}


def _read(folder: Path) -> object:
    path = only(folder)
    item = Image(path=path)
    height, width = size(item)
    assert verify(item) == (height, width)
    pixels = decode(item)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and sorted(pixels.shape[:2]) == sorted((height, width))
    try:
        return digest(item)
    except InputError as error:
        raise AssertionError("an image that decodes has a digest") from error


TARGET = Target(
    "images",
    _seeds,
    _read,
    _structured(),
    tokens=(
        b"IHDR",
        b"IDAT",
        b"PLTE",
        b"tRNS",
        b"eXIf",
        b"acTL",
        b"\xff\xd8",
        b"\xff\xda",
        b"GIF89a",
        b"RIFF",
        b"VP8L",
        b"VP8X",
        b"P6",
        b"P7",
        b"II*\0",
        b"MM\0*",
        b"%!PS",
    ),
)
