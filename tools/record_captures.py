# SPDX-License-Identifier: Apache-2.0
"""Records the captures of tests/captures: real traffic between two network namespaces.

    +---------- client ----------+        +----- wire -----+        +--------- server ---------+
    | curl, sockets: 10.20.0.x   |--veth--| relay, recorder |--veth--| HTTP, DNS: 10.20.0.53/80 |
    +----------------------------+        +----------------+        +--------------------------+

The relay forwards frames between the two and is the point of observation: it writes what passes.
For the impaired capture it loses frames before and after that point and swaps some, by seed.
Needs root, iproute2 and curl. Usage: record_captures.py [office|impaired]...
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
TRAFFIC = Path(__file__).with_name("office_traffic.py")
CLIENT, WIRE, SERVER = "nfm-client", "nfm-wire", "nfm-server"
CLIENT_HOSTS = ("11", "12", "13", "66", "67")  # 66 and 67 scan
SERVER_HOSTS = ("53", "80")
SNAPLEN = 65535
SIOCETHTOOL = 0x8946
PACKET_OUTGOING = 4
# ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO: set to 0 so that frames have real
# checksums and the sizes of a wire (linux/ethtool.h).
OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)


def run(*command: str) -> None:
    """Runs a command that must succeed."""
    subprocess.run(command, check=True)


def inside(namespace: str, *command: str) -> list[str]:
    """Returns the command line that runs |command| in a namespace."""
    return ["ip", "netns", "exec", namespace, *command]


@contextmanager
def namespaces() -> Iterator[None]:
    """Makes the three namespaces of the picture above, and removes them."""
    try:
        for name in (CLIENT, WIRE, SERVER):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for name, far, mac in (
            (CLIENT, "left", "02:00:00:00:20:01"),
            (SERVER, "right", "02:00:00:00:20:02"),
        ):
            run("ip", "-n", name, "link", "add", "eth0", "address", mac, "type", "veth",
                "peer", "name", far, "netns", WIRE)  # fmt: skip
            run("ip", "-n", WIRE, "link", "set", far, "up", "promisc", "on")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        for name, hosts in ((CLIENT, CLIENT_HOSTS), (SERVER, SERVER_HOSTS)):
            for host in hosts:
                run("ip", "-n", name, "addr", "add", f"10.20.0.{host}/24", "dev", "eth0")
                run("ip", "-n", name, "addr", "add", f"fd20::{host}/64", "dev", "eth0", "nodad")
        # Nothing ever comes back to .67: its probes stay without an answer.
        run("ip", "-n", SERVER, "route", "add", "blackhole", "10.20.0.67/32")
        for name, device in ((CLIENT, "eth0"), (WIRE, "left"), (WIRE, "right"), (SERVER, "eth0")):
            run(*inside(name, sys.executable, __file__, "--offloads-off", device))
        yield
    finally:
        for name in (CLIENT, WIRE, SERVER):
            subprocess.run(["ip", "netns", "del", name], check=False)


def offloads_off(device: str) -> None:
    """Switches checksum and segmentation offloads of a device off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in OFFLOADS:
            value = bytearray(struct.pack("=II", command, 0))
            address = ctypes.addressof(ctypes.c_char.from_buffer(value)).to_bytes(8, sys.byteorder)
            fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("=16s8s16x", device.encode(), address))


class Impairment:
    """What goes wrong on the wire, decided by a seed: nothing, unless |rate| is positive."""

    def __init__(self, rate: float, seed: int = 1) -> None:
        self._rate, self._random = rate, random.Random(seed)

    def _happens(self) -> bool:
        return self._random.random() < self._rate

    def lost_before(self, frame: bytes) -> bool:
        """Says whether the frame never reaches the point of observation."""
        return _is_ip_transport(frame) and self._happens()

    def lost_after(self, frame: bytes) -> bool:
        """Says whether the frame is recorded but never arrives."""
        return _is_ip_transport(frame) and self._happens()

    def delayed(self, frame: bytes) -> bool:
        """Says whether the frame lets the next one pass first."""
        return _is_ip_transport(frame) and self._happens()


def _is_ip_transport(frame: bytes) -> bool:
    return frame[12:14] in (b"\x08\x00", b"\x86\xdd") and len(frame) >= 54


class Recorder:
    """Writes a pcap file with nanoseconds (magic a1b23c4d), link type Ethernet."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAPLEN, 1))

    def write(self, frame: bytes) -> None:
        """Appends a frame, stamped now."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        size = len(frame)
        self._file.write(struct.pack("=IIII", seconds, nanoseconds, size, size) + frame)


def relay(path: str, rate: float) -> None:
    """Forwards frames between left and right until standard input closes."""
    sides = []
    for device in ("left", "right"):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.bind((device, 0))
        sides.append(sock)
    impairment, late = Impairment(rate), {side: b"" for side in sides}
    print("ready", flush=True)
    with open(path, "wb") as file:
        recorder = Recorder(file)
        while True:
            ready, _, _ = select.select([*sides, sys.stdin], [], [], 0.02)
            if sys.stdin in ready:
                return
            for side in sides:
                other = sides[1 - sides.index(side)]
                frame, address = side.recvfrom(SNAPLEN) if side in ready else (b"", ())
                if frame and address[2] != PACKET_OUTGOING and not impairment.lost_before(frame):
                    if not late[side] and impairment.delayed(frame):
                        late[side] = frame
                        continue
                    _pass_on(frame, other, recorder, impairment)
                if late[side] and (frame or not ready):
                    _pass_on(late[side], other, recorder, impairment)
                    late[side] = b""


def _pass_on(frame: bytes, to: socket.socket, recorder: Recorder, impairment: Impairment) -> None:
    recorder.write(frame)
    if not impairment.lost_after(frame):
        to.send(frame)


def record(scene: str, path: Path, rate: float) -> None:
    """Plays a scene of office_traffic.py and keeps what passed the wire."""
    python = sys.executable
    with namespaces():
        wire = subprocess.Popen(
            inside(WIRE, python, __file__, "--relay", str(path), "--rate", str(rate)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert wire.stdin is not None
        assert wire.stdout is not None
        wire.stdout.readline()
        server = subprocess.Popen(
            inside(SERVER, python, str(TRAFFIC), "serve"), stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        server.stdout.readline()
        try:
            run(*inside(CLIENT, python, str(TRAFFIC), scene))
            time.sleep(0.3)
        finally:
            wire.stdin.close()
            wire.wait(timeout=5)
            server.terminate()
            server.wait(timeout=5)
    print(f"{path}: {path.stat().st_size} bytes")


def main() -> None:
    """Records the scenes named on the command line, or both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="*", metavar="office|impaired")
    parser.add_argument("--offloads-off", help=argparse.SUPPRESS)
    parser.add_argument("--relay", help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.offloads_off:
        offloads_off(args.offloads_off)
    elif args.relay:
        relay(args.relay, args.rate)
    else:
        for scene in args.scenes or ("office", "impaired"):
            rate = 0.04 if scene == "impaired" else 0.0
            record(scene, ROOT / "tests/captures" / f"{scene}.pcap", rate)


if __name__ == "__main__":
    main()
