# SPDX-License-Identifier: Apache-2.0
"""Whether this machine reaches itself by IPv6: containers often do not."""

import socket


def has_ipv6() -> bool:
    """True where ::1 can be listened on."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
