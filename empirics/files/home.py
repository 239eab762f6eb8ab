"""Users without a home folder, as containers have them."""

from __future__ import annotations

import logging
import os
from pathlib import Path


def do_without_a_home() -> None:
    """Let libraries do without a folder of the user's own, and say nothing of it: nothing that they keep there is needed.

    A cache that the user names, and that cannot be written, is still told of.
    """
    try:
        Path.home()
    except RuntimeError:
        # Altair asks when it is imported, and fails. Not a temporary folder: there others could lay settings for us to read.
        os.environ["HOME"] = os.sep
    # Matplotlib then takes a temporary folder, with two lines of warning.
    if not os.environ.get("MPLCONFIGDIR"):
        logging.getLogger("matplotlib").addFilter(_of_another_matter)


def _of_another_matter(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(("mkdir -p failed", "%s is not a writable", "Matplotlib created a temporary"))
