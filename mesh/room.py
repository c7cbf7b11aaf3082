# SPDX-License-Identifier: Apache-2.0
"""Room for descriptors: asked for before code that cannot cope without, and in time."""

from __future__ import annotations

import os
from contextlib import ExitStack

__all__ = ["check_room"]


def check_room(n: int) -> None:
    """Raises OSError when this process cannot open so many descriptors more."""
    with ExitStack() as opened:
        for _ in range(n):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
