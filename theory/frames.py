"""Results as tables: pandas is loaded when the first is made, and is not needed before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from theory.errors import MissingExtra

if TYPE_CHECKING:
    import pandas as pd


def data_frame(data: Any, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A data frame of rows or columns.

    Raises
    ------
    MissingExtra
        If pandas, of the extra `tables`, is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise MissingExtra("pandas", "tables") from error
    return pd.DataFrame(data, columns=None if columns is None else list(columns))
