# SPDX-License-Identifier: Apache-2.0
"""The firewall against nftables: the same rules, the same packets, the same that come through.

A kernel forwards between two links and filters; random conversations go through it frame by frame,
and through the firewall as a capture. The text of the rules is the same for both.
"""

import ctypes
import os
import random
import shutil
import socket
import struct
import threading
from ipaddress import ip_address

import pytest
from live_rig import HAS_IPV6, PATIENCE_S, Namespace, why_not
from pcap_file import frames_of

from mesh import replay
from mesh.ports import Port
from mesh.testing import ACK, FIN, PSH, RST, SYN, packet, tcp, timed, udp, write_capture
from nfs.firewall.nf import Firewall

PROBE = "add table inet t { chain c { type filter hook forward priority 0; ct state new drop; }; }"
HEAD = """
table inet firewall {{
  chain forward {{
    type filter hook forward priority 0; policy accept;
    udp dport 65001 accept
    ct state established,related accept
    meta l4proto tcp ct state invalid drop
    tcp flags & (fin | syn | rst | ack) != syn drop
    {rules}
    {policy}
  }}
}}
"""
LEFT = ["10.0.0.1", "10.0.0.2", "10.0.7.9", "2001:db8:0::1", "2001:db8:0::ffff"]
RIGHT = ["10.1.0.1", "10.1.0.130", "10.1.9.9", "2001:db8:1::1", "2001:db8:1:1::5"]
PORTS = [22, 53, 80, 443, 8080, 8081]
UNKNOWN = 1 << 60
MARK = {"left": ("10.0.255.9", "10.1.255.9"), "right": ("10.1.255.9", "10.0.255.9")}


class Router:
    """A kernel between two links: frames are put on one, and what comes out of the other is read.

    left l0 ---- m0 [forwards] m1 ---- r0 right
    """

    def __init__(self):
        self.left, self.middle, self.right = (Namespace() for _ in range(3))
        for near, far, ours, theirs in (("m0", "l0", 0, self.left), ("m1", "r0", 1, self.right)):
            run = self.middle.ip
            self.middle.speak_ipv6(True, "all", "default")
            run(f"link add {near} type veth peer name {far} netns {theirs.pid}")
            run(f"link set {near} address 02:00:00:00:00:0{ours + 1} up")
            theirs.ip(f"link set {far} up")
            run(f"addr add 192.168.{ours}.1/24 dev {near}")
            run(f"addr add fd00:{ours}::1/64 dev {near} nodad")
            for via in (f"192.168.{ours}.2", f"fd00:{ours}::2"):
                run(f"neigh replace {via} lladdr 02:00:00:00:01:0{ours} dev {near} nud permanent")
            run(f"route add 10.{ours}.0.0/16 via 192.168.{ours}.2 dev {near}")
            run(f"-6 route add 2001:db8:{ours}::/48 via fd00:{ours}::2 dev {near}")
        for setting in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.middle.run("sh", "-c", f"echo 1 > /proc/sys/{setting}")
        self.sockets = {"left": link(self.left, "l0"), "right": link(self.right, "r0")}

    def load(self, text):
        self.middle.run("nft", "flush ruleset")
        self.middle.run("sh", "-c", f"cat <<'X' | nft -f -\n{text}\nX")

    def send(self, frames):
        """Sends (side, frame) one by one; returns the serial numbers of those that came through."""
        came = set()
        for number, (side, frame) in enumerate(frames):
            other = "right" if side == "left" else "left"
            source, target = MARK[side]
            mark = packet(
                udp(struct.pack(">Q", 1 << 32 | number), source, 65001, target, 65001),
                source, target, 17,
            )  # fmt: skip
            address = bytes.fromhex("020000000001" if side == "left" else "020000000002")
            for each in (frame, mark):
                self.sockets[side].send(address + each[6:])
            while (serial := serial_of(self.sockets[other].recv(4096))) != 1 << 32 | number:
                came.add(serial)
        return {serial for serial in came if serial < len(frames)}

    def close(self):
        for end in self.sockets.values():
            end.close()
        for namespace in (self.left, self.middle, self.right):
            namespace.close()


def link(namespace, name):
    """Returns a packet socket of another namespace."""
    made = []

    def enter():
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/proc/{namespace.pid}/ns/net") as file:
            assert libc.setns(file.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        end.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
        end.bind((name, 3))
        end.settimeout(PATIENCE_S)
        made.append(end)

    thread = threading.Thread(target=enter)  # of its own: a namespace is a thread's
    thread.start()
    thread.join()
    return made[0]


def serial_of(frame):
    """Every frame of ours ends with its number; what the kernel says itself is of no interest."""
    source = frame[26:28] if frame[12:14] == b"\x08\0" else frame[22:24]
    if source in (b"\xc0\xa8", b"\xfd\0", b"\xfe\x80", b"\0\0"):
        return UNKNOWN
    return struct.unpack(">Q", frame[-8:])[0]


@pytest.fixture
def router():
    reason = why_not() or (None if shutil.which("nft") else "no nft (Debian: nftables)")
    reason = reason or (None if HAS_IPV6 else "this kernel has no IPv6")
    if reason is None:
        namespace = Namespace()
        if not namespace.works("nft", PROBE):
            reason = "this kernel has no nf_tables with conntrack"
        namespace.close()
    if reason is not None:
        pytest.skip(reason)
    made = Router()
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})  # a kernel keeps the order of what one core sends
    yield made
    os.sched_setaffinity(0, cpus)
    made.close()


# ---- random rules and conversations ---------------------------------------------------------


def random_rule(rng):
    """Returns a rule that both understand."""
    words = []
    if rng.random() < 0.7:
        pool = LEFT + RIGHT
        address = rng.choice(pool)
        length = rng.choice([8, 16, 24, 25, 32] if "." in address else [32, 48, 64, 128])
        bits = ip_address(address).max_prefixlen
        base = int(ip_address(address)) >> (bits - length) << (bits - length)
        net = f"{type(ip_address(address))(base)}/{length}"
        family, field = ("ip" if "." in address else "ip6"), rng.choice(["saddr", "daddr"])
        words.append(f"{family} {field} {rng.choice(['', '', '!= '])}{net}")
    kind = rng.random()
    if kind < 0.5:
        proto, field = rng.choice(["tcp", "udp"]), rng.choice(["dport", "dport", "sport"])
        value = rng.choice(
            [
                str(rng.choice(PORTS)),
                "{ " + ", ".join(map(str, rng.sample(PORTS, 3))) + " }",
                f"{rng.choice(PORTS[:3])}-{rng.choice(PORTS[3:])}",
                f"!= {rng.choice(PORTS)}",
            ]
        )
        words.append(f"{proto} {field} {value}")
    elif kind < 0.6:
        words.append(rng.choice(["icmp type 8", "icmp type { 0, 8 }", "icmpv6 type 128"]))
    elif kind < 0.8:
        words.append(rng.choice(["meta l4proto tcp", "meta l4proto { 17, 1 }", "ip protocol 6"]))
    if words and words[0].startswith("ip6") and words[-1].startswith(("icmp type", "ip protocol")):
        words.pop()
    if words and words[0].startswith("ip ") and words[-1].startswith("icmpv6"):
        words.pop()
    return " ".join([*words, "counter", rng.choice(["accept", "accept", "drop", "reject"])])


class Talk:
    """A conversation; `next` returns (side, frame) of its packets, None at the end."""

    def __init__(self, rng, number):
        client, server = rng.choice([("left", "right"), ("right", "left")])
        pools = {"left": LEFT, "right": RIGHT}
        a = rng.choice(pools[client])
        b = rng.choice([other for other in pools[server] if ("." in other) == ("." in a)])
        self.rng, self.sides = rng, {client: a, server: b}
        self.client, self.server = client, server
        self.ports = (1024 + number, rng.choice(PORTS))
        self.script = iter(rng.choice([self.connection, self.exchange, self.echo])())
        self.last = b""

    def next(self, serial):
        made = next(self.script, None)
        if made is None:
            return None
        side, what = made
        other = self.server if side == self.client else self.client
        src, dst = self.sides[side], self.sides[other]
        body = struct.pack(">Q", serial)
        if what == "error":
            side = other = self.server if self.last_side == self.client else self.client
            src, dst = self.sides[side], self.sides[self.last_side]
            quoted = self.last[14 : 14 + (28 if "." in src else 48)]
            frame = packet(icmp(3 if "." in src else 1, quoted + body, src, dst), src, dst,
                           1 if "." in src else 58)  # fmt: skip
            return side, frame
        frame = packet(what(src, dst, side == self.client, body), src, dst, self.proto)
        self.last, self.last_side = frame, side
        return side, frame

    def pair(self, is_client):
        return self.ports if is_client else self.ports[::-1]

    def segment(self, flags):
        def make(src, dst, is_client, body):
            sport, dport = self.pair(is_client)
            at = self.seq[is_client]
            self.seq[is_client] += len(body) + bool(flags & (SYN | FIN))
            ack = self.seq[not is_client] if flags & ACK else 0
            return tcp(body, src, sport, dst, dport, seq=at, ack=ack, flags=flags)

        return make

    def connection(self):
        self.proto, self.seq = 6, {True: 1000, False: 7000}
        if self.rng.random() < 0.2:
            yield self.rng.choice([self.client, self.server]), self.segment(PSH | ACK)
            return
        yield self.client, self.segment(SYN)
        if self.rng.random() < 0.2:
            yield self.client, "error"
        yield self.server, self.segment(SYN | ACK)
        yield self.client, self.segment(ACK)
        for _ in range(self.rng.randrange(3)):
            side = self.rng.choice([self.client, self.server])
            yield side, self.segment(PSH | ACK)
        yield self.server, self.segment(self.rng.choice([FIN | ACK, RST | ACK]))

    def exchange(self):
        self.proto = 17

        def make(src, dst, is_client, body):
            sport, dport = self.pair(is_client)
            return udp(body, src, sport, dst, dport)

        for _ in range(self.rng.randrange(1, 5)):
            yield self.rng.choice([self.client, self.client, self.server]), make
            if self.rng.random() < 0.2:
                yield self.client, "error"

    def echo(self):
        is_ipv4 = "." in self.sides[self.client]
        self.proto = 1 if is_ipv4 else 58
        request, reply = (8, 0) if is_ipv4 else (128, 129)

        def make(src, dst, is_client, body):
            head = struct.pack(">HH", self.ports[0], 1)
            return icmp(request if is_client else reply, body, src, dst, head)

        for _ in range(self.rng.randrange(1, 4)):
            yield self.rng.choice([self.client, self.server]), make


def icmp(kind, body, src, dst, rest=bytes(4)):
    from mesh.testing import checksum

    message = bytes([kind, 0, 0, 0]) + rest + body
    pseudo = b""
    if ":" in src:
        pseudo = ip_address(src).packed + ip_address(dst).packed
        pseudo += struct.pack(">II", len(message), 58)
    return message[:2] + struct.pack(">H", checksum(pseudo + message)) + message[4:]


def conversations(rng, talks):
    """Returns (side, frame) of many conversations by turns, each in its order."""
    going = [Talk(rng, number) for number in range(talks)]
    frames = []
    while going:
        talk = rng.choice(going[:20])
        made = talk.next(len(frames))
        if made is None:
            going.remove(talk)
        else:
            frames.append(made)
    return frames


def through_firewall(tmp_path, frames, rules, policy):
    source, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    write_capture(source, timed(frame for _, frame in frames), form="pcap")
    nf = Firewall(lines=tuple(rules), default=policy)
    report = replay(source, [nf], sink=Port.record(out, "pcap"))
    found = {serial_of(frame) for frame in frames_of(out)}
    return found, report["firewall"].results


@pytest.mark.parametrize("seed", range(8))
def test_the_same_packets_pass_as_with_nftables(router, tmp_path, seed):
    rng = random.Random(seed)
    rules = ["tcp dport 443 counter accept"]
    rules += [random_rule(rng) for _ in range(rng.choice([3, 10, 40]))]
    policy = rng.choice(["accept", "drop", "reject"])
    frames = conversations(rng, 120)
    router.load(HEAD.format(rules="\n    ".join(rules), policy=policy))
    theirs = router.send(frames)
    ours, results = through_firewall(tmp_path, frames, rules, policy)
    differ = [(number, frames[number][1].hex()) for number in sorted(ours ^ theirs)]
    assert not differ, f"{rules} {policy} {results}"
    assert 0 < len(ours) < len(frames)
