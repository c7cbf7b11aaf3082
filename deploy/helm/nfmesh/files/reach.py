"""The chart's test: a socket takes connections, and addresses answer that they are ready."""

import argparse
import socket
import sys
import time
import urllib.error
import urllib.request

PATIENCE_S, PAUSE_S = 60.0, 1.0


def problem_of_socket(path: str) -> str | None:
    """Returns why nobody listens at a socket, or None."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(5)
            sock.connect(path)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return None


def problem_of_address(address: str) -> str | None:
    """Returns why an address does not say that it is ready, or None."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return None
    except urllib.error.HTTPError as error:
        return f"{address}: {error.code} {error.read(200).decode(errors='replace').strip()}"
    except OSError as error:
        return f"{address}: {error}"


def main() -> None:
    """Tries all until each is there, or patience ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", action="append", default=[])
    parser.add_argument("--ready", action="append", default=[])
    given = parser.parse_args()
    checks = [(problem_of_socket, path) for path in given.socket]
    checks += [(problem_of_address, address) for address in given.ready]
    end = time.monotonic() + PATIENCE_S
    while problems := [text for check, what in checks if (text := check(what))]:
        if time.monotonic() > end:
            sys.exit("\n".join(problems))
        time.sleep(PAUSE_S)
    for _, what in checks:
        print(f"{what}: ready")


if __name__ == "__main__":
    main()
