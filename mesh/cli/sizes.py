# SPDX-License-Identifier: Apache-2.0
"""The option --worker: sizes of the worker, which bound its memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mesh.errors import SpecError

__all__ = ["Sizes", "sizes_from"]

Sizes = Annotated[
    list[str] | None,
    typer.Option("--worker", help="Size of the worker, which bounds memory: max_flows=65536."),
]


def sizes_from(sizes: Sequence[str]) -> dict[str, int]:
    """Turns KEY=NUMBER words into sizes of the worker.

    >>> sizes_from(["max_flows=4096"])
    {'max_flows': 4096}
    """
    found: dict[str, int] = {}
    for size in sizes:
        name, _, text = size.partition("=")
        if not (name and text.isascii() and text.isdigit()):
            raise SpecError(f"--worker {size}", "write it as KEY=NUMBER, as in max_flows=65536")
        found[name] = int(text)
    return found
