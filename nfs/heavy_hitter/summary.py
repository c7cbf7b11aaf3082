# SPDX-License-Identifier: Apache-2.0
"""The largest sums of a stream of weighted keys, in bounded memory and with a bounded error.

Theory of operation. This is the summary of Misra and Gries, fed by blocks: the sums of a block are
added to the counters; when there are more than `size`, the largest one that does not fit is taken
from all, and what is not positive is forgotten. Agarwal et al. (Mergeable Summaries, 2012) show
that each subtraction of `c` takes at least `c * (size + 1)` of the whole weight, so that with
`total` the sum of all weights

    estimate <= true sum <= estimate + error      error <= total / (size + 1)

for every key, whatever the order and however the stream is cut into blocks. So no key whose sum is
more than `total / (size + 1)` is ever missing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Summary", "sums_by_key"]

Keys = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int64]


class Summary:
    """Counters of one stream.

    Args:
        size: counters kept.
        width: bytes of a key.

    Attributes:
        keys: u8[n, width].
        sums: their estimates, never more than the truth.
        error: what a sum, also that of a key that is not here, may be more than its estimate.
        total: of all weights.
    """

    __slots__ = ("error", "keys", "size", "sums", "total")

    def __init__(self, size: int, width: int) -> None:
        if size < 1:
            raise ValueError("a summary has at least one counter")
        self.size = size
        self.keys: Keys = np.empty((0, width), np.uint8)
        self.sums: Sums = np.empty(0, np.int64)
        self.error = self.total = 0

    def add(self, keys: Keys, weights: Sums) -> None:
        """Adds a block: u8[n, width] and as many weights, none negative; keys may repeat."""
        self.total += int(weights.sum())
        self._count(keys, weights)

    def merge(self, other: Summary) -> None:
        """Adds another stream's summary; the bound holds for both streams together."""
        self.total += other.total
        self.error += other.error
        self._count(other.keys, other.sums)

    def _count(self, keys: Keys, weights: Sums) -> None:
        self.keys, self.sums = sums_by_key(
            np.concatenate((self.keys, keys)), np.concatenate((self.sums, weights))
        )
        if len(self.sums) > self.size:
            least = np.partition(self.sums, -self.size - 1)[-self.size - 1]
            stays = self.sums > least
            self.keys, self.sums = self.keys[stays], self.sums[stays] - least
            self.error += int(least)

    def top(self, n: int) -> list[tuple[bytes, int]]:
        """Returns the `n` largest as (key, estimate), the largest first."""
        order = np.argsort(-self.sums, kind="stable")[:n]
        return [(self.keys[at].tobytes(), int(self.sums[at])) for at in order.tolist()]


def sums_by_key(keys: Keys, weights: Sums) -> tuple[Keys, Sums]:
    """Adds up the weights of equal keys; returns each key once."""
    if len(keys) == 0:
        return keys, weights
    whole = np.ascontiguousarray(keys).view(f"V{keys.shape[1]}").ravel()
    _, first, group = np.unique(whole, return_index=True, return_inverse=True)
    sums = np.zeros(len(first), np.int64)
    np.add.at(sums, group.ravel(), weights)
    return keys[first], sums
