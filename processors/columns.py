"""State rows as one plain array a field: each use of a field of a structured array costs more than most of its work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from processors.plan import carry

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Columns(dict[str, "NDArray[Any]"]):
    """Field → array (n, …); change the arrays in place. What is saved is structured, in the order of the fields.

    Args:
        empty: shape (1,), structured: what a row starts as.
        n: how many rows.
    """

    def __init__(self, empty: NDArray[Any], n: int) -> None:
        super().__init__({name: np.repeat(empty[name], n, axis=0) for name in empty.dtype.names or ()})
        self._n, self._dtype = n, empty.dtype

    def take(self, old: Columns, source: NDArray[np.int64]) -> None:
        """Take rows along: ``source`` is each row's number in ``old`` or -1."""
        for name, column in self.items():
            carry(old[name], source, column)

    def rows(self) -> NDArray[Any]:
        """Return all rows, to be saved: (n,), structured."""
        out = np.empty(self._n, self._dtype)
        for name, column in self.items():
            out[name] = column
        return out

    def restore(self, saved: NDArray[Any]) -> None:
        """Take up what :meth:`rows` returned; fields that a state of before does not have stay as they are."""
        for name in saved.dtype.names or ():
            self[name][:] = saved[name]
