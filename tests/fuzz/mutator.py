"""Damaged inputs from sound ones: bytes, JSON and the files of a folder, changed at random from a seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Link:
    """A symbolic link in the place of a file."""

    target: str


# Files of an input, by their path in its folder.
Files: TypeAlias = Mapping[str, bytes | Link]

# Numbers at the edges of what fields of a binary format hold.
_EDGES = [0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
# What readers of text are known to stumble over.
_TOKENS = (
    *(b"\0", b"\n", b"\r", b"\t", b'"', b"'", b",", b"{", b"}", b"[", b"]", b":", b"&a ", b"*a", b"<<", b"- ", b"\\u0000", b"\\ud800"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xc0\x80", b"\xed\xa0\x80", b"NaN", b"Infinity", b"-1", b"1e400", b"null", b"true", b"9" * 5000),
    *(b"../", b"/etc/passwd", b"CON", b"nul.txt", b"\xe2\x80\xae", b"0x" + b"f" * 5000, b"[" * 600, b"[" * 100_000, b'{"a":' * 600),
    *(b"A" * 70_000, b"__import__", b"!!python/object/apply:os.system [x]", b"${jndi}", b"%s%s%n", b"{{7*7}}", b"\x1b[31m"),
)
_DEEP: Any = []
for _ in range(400):
    _DEEP = [_DEEP]
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, 1e308, -1e-308, "", " ", "\0", "\n", "nan", "x", "../../x", "/x"),
    *("\ud800", "\u202e", "\x1b[31m", "CON", ".", "a" * 300, "a" * 70_000, "(a*)*b", ".*" * 30, [], {}, [[]], [None], ["x"], [1, "x"]),
    *({"": ""}, {"a": {"b": []}}, _DEEP),
)


def changed_bytes(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], rng: Random) -> bytes:
    """Bytes with a few changes: flipped, cut, repeated, moved, overwritten by edge values and tokens, spliced with others."""
    out = bytearray(data)
    for _ in range(1 + min(int(rng.expovariate(0.8)), 8)):
        _change(out, others, tokens, rng)
    return bytes(out)


def _change(out: bytearray, others: Sequence[bytes], tokens: Sequence[bytes], rng: Random) -> None:
    n = len(out)
    if not n:
        out += rng.choice(tokens or _TOKENS)
        return
    # The head of a file decides what is made of the rest.
    at = rng.randrange(n) if rng.random() < 0.6 else rng.randrange(min(n, 64))
    length = min(int(rng.expovariate(1 / 16)) + 1, n - at)
    kind = rng.randrange(11)
    if kind == 0:
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        out[at] = rng.randrange(256)
    elif kind == 2:
        del out[at : at + length]
    elif kind == 3:
        out[at:at] = out[at : at + length] * rng.choice((1, 1, 2, 50))
    elif kind == 4:
        del out[at:]
    elif kind == 5:
        width = rng.choice((1, 2, 4, 8))
        value = (rng.choice(_EDGES) + rng.randint(-2, 2)) % 256**width
        out[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
    elif kind == 6:
        other = rng.choice(others) if others else bytes(out)
        cut = rng.randrange(len(other) + 1)
        out[at:] = other[cut:]
    elif kind == 7:
        to = rng.randrange(n)
        piece = out[at : at + length]
        del out[at : at + length]
        out[to:to] = piece
    elif kind == 8:
        out[at : at + length] = bytes(rng.randrange(256) for _ in range(length))
    else:
        token = rng.choice(tokens) if tokens and rng.random() < 0.6 else rng.choice(_TOKENS)
        out[at : at + (len(token) if rng.random() < 0.5 else 0)] = token


def changed_json(value: Any, rng: Random) -> Any:
    """The same JSON with one place changed: another value, a key or item less, twice or under another name. The given one is kept."""
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.06:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.09:
            return {(f"{k}x" if k == key else k): v for k, v in value.items()}
        if kind < 0.12:
            return {**value, rng.choice(("", "x", "..", "\0", "schema_version")): rng.choice(_ODD)}
        return {**value, key: changed_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.93:
        at = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.06:
            return value[:at] + value[at + 1 :]
        if kind < 0.1:
            return value[: at + 1] + value[at:]
        return [*value[:at], changed_json(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice((-value, value + 1, value * 10**9, value / 3, str(value)))
    if isinstance(value, str) and value and rng.random() < 0.4:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(("\0", "/", "..", "\n", "é", "*", "(", "x")) + value[at:]
    return rng.choice(_ODD)


def changed_files(files: Files, pool: Sequence[Files], tokens: Sequence[bytes], links: Sequence[str], rng: Random) -> Files:
    """The files of an input with one of them changed, removed, renamed or replaced by a link."""
    out = dict(files)
    name = rng.choice(list(out))
    content = out[name]
    kind = rng.random()
    if len(out) > 1 and kind < 0.03:
        del out[name]
        return out
    if links and kind < 0.06:
        out[name] = Link(rng.choice(links))
        return out
    if isinstance(content, Link):
        return out
    if name.endswith(".json") and kind < 0.7:
        try:
            out[name] = _json_bytes(changed_json(json.loads(content), rng))
            return out
        except (ValueError, RecursionError):
            pass
    others = [x for other in rng.sample(list(pool), min(len(pool), 3)) if isinstance(x := other.get(name), bytes)]
    out[name] = changed_bytes(content, others, tokens, rng)
    return out


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
