"""The one error that bad input raises, everywhere in the project (theory/README.md, Setting)."""

from __future__ import annotations

from numbers import Integral

import numpy as np

# Characters of a message; what is longer loses its middle.
_LONGEST = 3000


class InputError(ValueError):
    """Bad input, told in one line: what was given, what was wrong with it, what to do.

    Every check in `theory` and `empirics` raises this and nothing else, so that a caller can tell "your
    input is wrong" from "our code is wrong", and the command line can print one line and exit with status 2.

    Parameters
    ----------
    argument : str
        Name of the argument, file or configuration key at fault.
    problem : str
        What was wrong with it, and what to do about it.
    """

    def __init__(self, argument: str, problem: str) -> None:
        self.argument = argument
        self.problem = problem
        super().__init__(_line(f"{argument}: {problem}"))


class MissingExtra(InputError, ImportError):
    """What was asked for needs a package that is not installed, of an extra of this project.

    Parameters
    ----------
    package : str
        The package that is missing.
    extra : str
        The extra that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package, f"not installed; the extra `{extra}` brings it: pip install 'proteus-bounds[{extra}]'")


def check_whole(argument: str, value: object, least: int, reason: str = "", most: int | None = None) -> None:
    """Refuse what is no whole number from `least` to `most`; `reason` says why there are limits."""
    if isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) and (most is None or int(value) <= most):
        return
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise InputError(argument, f"{value!r} is not a whole number {limits}" + (f"; {reason}" if reason else ""))


def check_generator(rng: object) -> None:
    """Refuse what is no random generator, such as a seed, before any work is done for which it would be needed."""
    if not isinstance(rng, np.random.Generator):
        raise InputError("rng", f"{rng!r} is no numpy.random.Generator; give numpy.random.default_rng(SEED)")


def _line(text: str) -> str:
    """The text as one line that a terminal shows and does not obey, and no longer than a person reads: files put what they like into it."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 500]} ... {text[-500:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text)
