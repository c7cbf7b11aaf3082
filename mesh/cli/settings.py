# SPDX-License-Identifier: Apache-2.0
"""Settings as words of the command line: NAME.KEY=VALUE, MODULE[=CORE]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from mesh.errors import SpecError

__all__ = ["Checksums", "limits_from", "split_setting", "with_own_cores"]

Checksums = Literal["ignore", "verify"]


def split_setting(setting: str, flag: str, what: str) -> tuple[str, str, str]:
    """Splits NAME.KEY=VALUE.

    >>> split_setting("syn_scan.limit=5", "--set", "NF")
    ('syn_scan', 'limit', '5')
    """
    left, equals, value = setting.partition("=")
    name, dot, key = left.rpartition(".")
    if not (equals and dot and name and key):
        raise SpecError(f"{flag} {setting}", f"write it as {what}.KEY=VALUE")
    return name, key, value


def limits_from(limits: Sequence[str]) -> dict[str, dict[str, int | str]]:
    """Turns MODULE.KEY=VALUE words into limits; words such as `linux` stay words."""
    found: dict[str, dict[str, int | str]] = {}
    for limit in limits:
        name, key, text = split_setting(limit, "--limit", "MODULE")
        is_number = text.lstrip("-").isascii() and text.lstrip("-").isdigit()
        found.setdefault(name, {})[key] = int(text) if is_number else text
    return found


def with_own_cores(
    limits: Mapping[str, Mapping[str, int | str]], own_cores: Sequence[str]
) -> dict[str, dict[str, int | str | bool]]:
    """Adds MODULE[=CORE] words to what is said of modules.

    >>> with_own_cores({}, ["dns", "http=3"])
    {'dns': {'own': True}, 'http': {'core': 3}}
    """
    found: dict[str, dict[str, int | str | bool]] = {k: dict(v) for k, v in limits.items()}
    for word in own_cores:
        name, equals, core = word.partition("=")
        if not name or (equals and not (core.isascii() and core.isdigit())):
            raise SpecError(f"--own-core {word}", "write it as MODULE or MODULE=CORE")
        said = found.setdefault(name, {})
        said |= {"core": int(core)} if equals else {"own": True}
    return found
