"""Images: decoded as they look, whatever their mode; refused before decoding if too large; damage told in one line."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empirics.data.images import Image, decode, digest, size, verify
from theory.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(picture: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def png(pixels: np.ndarray = RGB) -> bytes:
    return encoded(PIL.Image.fromarray(pixels))


def test_bytes_path_and_array_decode_alike(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    for item in (Image(data=png()), Image(path=tmp_path / "a.png"), RGB):
        assert np.array_equal(decode(item), RGB)
        assert decode(item).dtype == np.uint8
        assert size(item) == verify(item) == (5, 7)


def test_decoded_pixels_may_be_written_to():
    pixels = decode(Image(data=png()))
    pixels[:] = 0
    assert pixels.sum() == 0


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_mode_gives_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    picture = PIL.Image.fromarray(RGB).convert(mode)
    found = decode(Image(data=encoded(picture, kind)))
    assert np.array_equal(found, np.array(picture.convert("RGB")))


def test_grey_array_is_repeated():
    found = decode(RGB[:, :, 0])
    assert all(np.array_equal(found[:, :, c], RGB[:, :, 0]) for c in range(3))


def test_sixteen_bits_keep_their_contrast():
    deep = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    assert decode(Image(data=encoded(PIL.Image.fromarray(deep))))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(kind):
    item = Image(data=encoded(PIL.Image.fromarray(np.ones((2, 2), dtype=kind)), "TIFF"))
    for use in (decode, verify):
        with pytest.raises(InputError, match="32-bit"):
            use(item)


def test_the_orientation_tag_is_followed():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    item = Image(data=encoded(PIL.Image.fromarray(RGB), exif=exif.tobytes()))
    assert np.array_equal(decode(item), np.rot90(RGB, -1))


def test_a_palette_with_transparent_bytes_is_no_warning():
    picture = PIL.Image.fromarray(RGB).convert("P")
    assert decode(Image(data=encoded(picture, transparency=bytes([0, 128, 255])))).shape == (5, 7, 3)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side, recwarn):
    """Below Pillow's own limit, where it warns, and where it raises: one line, no warning, nothing decoded."""
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    item = Image(data=head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""), name="bomb.png")
    for use in (decode, size, verify):
        with pytest.raises(InputError, match=r"bomb\.png.*pixels.*scale it down"):
            use(item)
    assert not recwarn.list


def test_formats_that_start_programs_are_unknown():
    with pytest.raises(InputError, match="no image in a known format"):
        decode(Image(data=encoded(PIL.Image.fromarray(RGB), "EPS"), name="a.eps"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_truncation_is_found_by_decode_and_verify(kind):
    rng = np.random.default_rng(0)
    whole = encoded(PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    verify(Image(data=whole))
    for use in (decode, verify):
        with pytest.raises(InputError, match=r"short\.x: "):
            use(Image(data=whole[: len(whole) // 2], name="short.x"))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]), st.data())
def test_damage_gives_pixels_or_one_line(kind, data):
    content = bytearray(encoded(PIL.Image.fromarray(RGB), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    item = Image(data=bytes(content), name="fuzz")
    for use in (decode, verify, size):
        try:
            use(item)
        except InputError as error:
            assert error.argument == "fuzz" and "\n" not in str(error)


def test_digest_tells_files_and_arrays_apart(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    assert digest(Image(path=tmp_path / "a.png")) == digest(Image(data=png(), name="other name"))
    assert digest(RGB) == digest(RGB.copy()) != digest(RGB.reshape(7, 5, 3)) != digest(255 - RGB)


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError, match="cannot be read") as caught:
            decode(Image(path=path))
        assert caught.value.argument == str(path)


@pytest.mark.parametrize("given_", [{}, {"path": Path("a"), "data": b""}])
def test_an_image_is_a_path_or_bytes(given_):
    with pytest.raises(InputError, match="either"):
        Image(**given_)


@pytest.mark.parametrize("pixels", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8), np.zeros(3, np.uint8)])
def test_other_arrays_are_refused(pixels):
    with pytest.raises(InputError, match="uint8 of shape"):
        decode(pixels)


def test_pillow_missing_says_how_to_install_it(monkeypatch):
    data = png()
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(InputError, match=r"pip install .*images"):
        decode(Image(data=data))
