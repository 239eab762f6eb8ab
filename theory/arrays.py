"""Arrays as the frozen values of this package keep them: float64, finite, symmetric where they are covariances."""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.errors import InputError

# Relative asymmetry that is taken for rounding (and averaged away); above it a matrix is refused.
_ASYMMETRY = 1e-8


def check_finite(argument: str, values: np.ndarray) -> None:
    """Refuse a NaN or an infinite value.

    Raises
    ------
    InputError
        Naming the argument, and the first of them by its index.
    """
    bad = ~np.isfinite(values)
    if bad.any():
        where = tuple(int(j) for j in np.argwhere(bad)[0])
        raise InputError(argument, f"holds {int(bad.sum())} NaN or infinite values, the first at index {where}; remove or mend them")


def real_array(argument: str, values: Any) -> np.ndarray:
    """The values as a float64 array: the same object if it is one.

    Raises
    ------
    InputError
        If they are no real numbers.
    """
    try:
        if not np.iscomplexobj(values):
            return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        pass
    raise InputError(argument, f"is of type {getattr(values, 'dtype', type(values).__name__)}, which holds no real numbers")


def kept(argument: str, values: np.ndarray) -> np.ndarray:
    """The array as float64, without a copy if nobody can write to it any more.

    Raises
    ------
    InputError
        As `real_array`.
    """
    out = real_array(argument, values)
    if out is values and (out.flags.writeable or out.base is not None):
        out = out.copy()
    return out


def symmetrised(argument: str, covariances: np.ndarray) -> np.ndarray:
    """The matrices, averaged with their transposes where they differ by no more than rounding.

    Raises
    ------
    InputError
        If one differs by more.
    """
    for k, matrix in enumerate(covariances):
        skew = float(np.abs(matrix - matrix.T).max())
        if skew > _ASYMMETRY * np.abs(matrix).max():
            raise InputError(f"{argument}[{k}]", f"is not symmetric (largest difference {skew:.3g}); pass (C + C.T) / 2 if that is meant")
        if skew > 0:
            if not covariances.flags.writeable:
                covariances = covariances.copy()
            covariances[k] = (matrix + matrix.T) / 2
    return covariances
