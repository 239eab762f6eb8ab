"""What every input is held to while it is read: time, memory, files, network, programs and pickles."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from theory.errors import InputError

# Processor time that an input may take; and address space that the process may grow by.
SECONDS = 10
MEMORY = 2**30
# A message is for a terminal.
LONGEST_MESSAGE = 4000
_FORBIDDEN = {
    *(
        "socket.connect",
        "socket.bind",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.sendto",
        "urllib.Request",
        "http.client.connect",
    ),
    *(
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "os.forkpty",
        "os.spawn",
        "pickle.find_class",
        "ctypes.dlopen",
    ),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "shutil.rmtree"),
}
_ROOT = Path(__file__).resolve().parents[2]
# Where code and its data lie, which may be imported late.
_CODE = tuple(
    {
        os.path.realpath(p)
        for p in (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *(_ROOT / name for name in ("theory", "empirics", "tests")))
    }
)
_SYSTEM = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/usr/share/zoneinfo", "/etc/localtime")


class _Stopped(BaseException):
    """Not an Exception, so that no reader takes it for damage of its file."""


class TooSlow(_Stopped):
    """An input took more than `SECONDS` of processor time."""


class Forbidden(_Stopped):
    """An input made its reader do what it must not."""


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes
    ----------
    kind : "read", "refused" or "defect"
    detail : str
        The message of a refusal, or the type of the exception and where it arose.
    trace : str
        Of a defect.
    seconds : float
        Processor time.
    """

    kind: str
    detail: str
    trace: str
    seconds: float


class Guard:
    """Calls readers, and sees what they do. One a process, for an audit hook cannot be taken back.

    Files that compiled libraries open by themselves (safetensors, Arrow) are not seen.
    """

    def __init__(self) -> None:
        self._folder: str | None = None
        self._seen: list[str] = []
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGPROF, self._late)

    def _late(self, *_: object) -> None:
        raise TooSlow(f"more than {SECONDS} s of processor time")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._folder is None:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.fsdecode(arguments[0])
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if not self._may_open(path, writes):
                self._seen.append(f"opens {path}{' to write' if writes else ''}")
                raise Forbidden(self._seen[-1])
        elif event in _FORBIDDEN:
            self._seen.append(f"{event} {str(arguments)[:200]}")
            raise Forbidden(self._seen[-1])

    def _may_open(self, path: str, writes: bool) -> bool:
        assert self._folder is not None
        folder, self._folder = self._folder, None
        try:
            real = os.path.realpath(path)
        finally:
            self._folder = folder
        if real.startswith(folder + os.sep):
            return not writes and not real.endswith((".py", ".pyc", ".so", ".pkl", ".bin", ".pt"))
        return path.startswith(_SYSTEM) or (real.startswith(_CODE) and (not writes or "__pycache__" in real))

    def read(self, reader: Callable[[Path], object], folder: Path) -> Outcome:
        """Let a reader read a folder, and say what became of it."""
        self._seen = []
        detail, trace, kind = "", "", "read"
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        self._folder = os.path.realpath(folder)
        try:
            reader(folder)
        except InputError as error:
            kind, detail = "refused", str(error)
        except (Exception, _Stopped) as error:
            self._folder = None
            kind, detail, trace = "defect", _place(error), "".join(traceback.format_exception(error))[-6000:]
        finally:
            self._folder = None
            signal.setitimer(signal.ITIMER_PROF, 0)
        if kind != "defect" and self._seen:
            kind, detail = "defect", f"Forbidden: {self._seen[0].split()[0]}"
            trace = "\n".join(self._seen)
        elif kind == "refused" and (len(detail) > LONGEST_MESSAGE or not detail.isprintable()):
            what = "long" if len(detail) > LONGEST_MESSAGE else "with characters that a terminal obeys"
            kind, trace, detail = "defect", repr(detail)[:2000], f"message {what}"
        return Outcome(kind, detail, trace, time.process_time() - start)


def _place(error: BaseException) -> str:
    """The type of an exception, and the innermost line of this project that it passed."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith((str(_ROOT / "theory"), str(_ROOT / "empirics")))]
    at = f"{Path(own[-1].filename).relative_to(_ROOT)}:{own[-1].lineno}" if own else "outside the project"
    return f"{type(error).__name__} at {at}"


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let the process grow by `MEMORY` and no more, whatever it holds already."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
