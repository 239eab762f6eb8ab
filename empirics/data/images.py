"""Images as a stream holds them: a path, encoded bytes or pixels, decoded when they are needed and never before."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from jaxtyping import UInt8

from theory.errors import InputError
from theory.files import read_whole

if TYPE_CHECKING:
    from PIL.Image import Image as Opened

_INSTALL = 'install it with: pip install "proteus-bounds[images]"'
# Raster formats that Pillow reads by itself; others (EPS) would start a program on the file.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
MAX_PIXELS = 2**26
_T = TypeVar("_T")


@dataclass(frozen=True)
class Image:
    """An image that is not decoded yet: either a file or encoded bytes.

    Attributes
    ----------
    path : Path or None
    data : bytes or None
        The content of an image file.
    name : str
        Where it came from, for messages; the path by default.

    Raises
    ------
    InputError
        If both or neither of `path` and `data` are given.
    """

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if (self.path is None) == (self.data is None):
            raise InputError("image", "takes either a path or encoded bytes")
        if not self.name:
            object.__setattr__(self, "name", str(self.path) if self.path is not None else f"image of {len(self.data or b'')} bytes")

    def encoded(self) -> bytes:
        """The bytes of the image file.

        Raises
        ------
        InputError
            If the file cannot be read.
        """
        if self.data is not None:
            return self.data
        assert self.path is not None
        try:
            return read_whole(self.path)
        except InputError as error:
            raise InputError(self.name, error.problem) from None


def check_inside(file: Path, folder: Path) -> None:
    """Refuse a file that does not lie in a folder once links and dots are followed.

    Raises
    ------
    InputError
        With "image" as argument; the caller knows in which row or folder it was named.
    """
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
        raise InputError("image", f"lies outside {folder}, at {os.path.realpath(file)}; if that is meant, set stream.outside=true")


Item: TypeAlias = Image | UInt8[np.ndarray, "h w *c"]


def decode(item: Item) -> UInt8[np.ndarray, "h w 3"]:
    """Decode to RGB: upright as its EXIF tag says, grey repeated, transparency dropped, the first frame of an animation.

    Parameters
    ----------
    item : Image, or (H, W) or (H, W, 3) uint8 array

    Raises
    ------
    InputError
        If it does not decode, has more than 2**26 pixels (refused before decoding), or holds 32-bit pixels; or if Pillow is missing.
    """
    if isinstance(item, np.ndarray):
        pixels = _checked_array(item)
        return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels
    return _with_pillow(item, _rgb)


def size(item: Item) -> tuple[int, int]:
    """Height and width as stored, read from the header alone.

    Raises
    ------
    InputError
        As `decode` does, except for damage behind the header.
    """
    if isinstance(item, np.ndarray):
        return _checked_array(item).shape[:2]
    return _with_pillow(item, lambda opened: (opened.height, opened.width))


def verify(item: Item) -> tuple[int, int]:
    """Read an image to its end, at the smallest scale that its format allows, and give its height and width.

    Raises
    ------
    InputError
        As `decode` does.
    """
    if isinstance(item, np.ndarray):
        return _checked_array(item).shape[:2]
    return _with_pillow(item, _read_through)


def digest(item: Item) -> bytes:
    """A hash that two items share if and only if they hold the same file, or the same pixels in an array of the same shape."""
    if isinstance(item, np.ndarray):
        pixels = _checked_array(item)
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
    return hashlib.sha256(item.encoded()).digest()


def _checked_array(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or 0 in pixels.shape:
        raise InputError("image", f"is a {pixels.dtype} array of shape {pixels.shape}; give uint8 of shape (H, W) or (H, W, 3)")
    return pixels


def _with_pillow(item: Image, use: Callable[[Opened], _T]) -> _T:
    """Open an image, refuse what is too large, and use it; whatever Pillow says of a damaged file becomes an `InputError`."""
    try:
        import PIL.Image
    except ImportError:
        raise InputError("pillow", f"is needed to read images and is not installed; {_INSTALL}") from None
    data = item.encoded()
    # Pillow warns of large images, damaged tags and palettes; each of these is refused or handled here.
    with _without_warnings():
        try:
            with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise InputError(item.name, f"has {opened.width} x {opened.height} pixels, more than {MAX_PIXELS}; scale it down")
                return use(opened)
        except InputError as error:
            raise InputError(item.name, error.problem) from None
        except PIL.UnidentifiedImageError:
            raise InputError(item.name, f"is no image in a known format ({', '.join(FORMATS)})") from None
        except PIL.Image.DecompressionBombError:
            raise InputError(item.name, f"claims more than {MAX_PIXELS} pixels; scale it down") from None
        except Exception as error:
            # A damaged file makes Pillow's parsers raise almost anything: OSError, SyntaxError, struct.error, IndexError, ...
            raise InputError(item.name, f"does not decode as an image ({' '.join(str(error).split()) or type(error).__name__})") from None


_filters = ExitStack()
_readers = 0
_lock = threading.Lock()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignore warnings while any thread is inside.

    `warnings.catch_warnings` alone is not for threads: the filters belong to all of them, and one that leaves late would put back what
    another had set aside.
    """
    global _readers
    with _lock:
        if _readers == 0:
            _filters.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                _filters.close()


def _read_through(opened: Opened) -> tuple[int, int]:
    _check_mode(opened)
    found = opened.height, opened.width
    # A JPEG is decoded at an eighth of its size, several times faster, and a truncated one is still found.
    opened.draft(None, (1, 1))
    opened.load()
    return found


def _check_mode(opened: Opened) -> None:
    if opened.mode in ("I", "F"):
        raise InputError("image", "has 32-bit pixels, whose range is not told; store 8 or 16 bits a channel")


def _rgb(opened: Opened) -> UInt8[np.ndarray, "h w 3"]:
    import PIL.ImageOps

    _check_mode(opened)
    upright = PIL.ImageOps.exif_transpose(opened)
    if upright.mode.startswith("I;16"):
        # Pillow would clip at 255, which makes nearly every 16-bit picture white.
        grey = (np.asarray(upright) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return np.array(upright.convert("RGB"))


def item_bytes(item: Item) -> int:
    """Bytes that an image takes where it is kept: its file's, or its pixels'."""
    return item.nbytes if isinstance(item, np.ndarray) else len(item.encoded())
