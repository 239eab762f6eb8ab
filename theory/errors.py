"""The one error that bad input raises, everywhere in the project (theory/README.md, Setting)."""

from __future__ import annotations


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
        super().__init__(f"{argument}: {problem}")


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
