# SPDX-License-Identifier: Apache-2.0
"""What a user writes of a router: ports, routes, mistakes; and the routes that follow."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

import mesh
from mesh.compose import NFUse
from mesh.errors import NFError, SpecError
from mesh.ports import Port
from mesh.testing import datagrams, write_capture
from nfs.router.nf import Router
from nfs.router.routes import parse, parse_ports
from nfs.router.table import Placed, derive

TWO = "0 10.1.0.1/24 fd01::1/64; 1 10.2.0.1/24 mtu 1400 mac 02:00:00:00:00:01"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("10.8.0.0/16 vai 10.1.0.9", "1:13", "did you mean 'via'"),
        ("\n  10.8.0.0/33 via 10.1.0.9", "2:3", "'10.8.0.0/33' does not appear"),
        ("10.8.1.0/16 via 10.1.0.9", "1:1", "has host bits set"),
        ("10.8.0.0/16 via", "1:13", "is missing"),
        ("10.8.0.0/16", "1:1", "where packets to 10.8.0.0/16 go"),
        ("10.8.0.0/16 via fd00::1", "1:17", "differ in IP version"),
        ("10.8.0.0/16 via 10.1.0.9 metric 3", "1:26", "'metric' makes no sense"),
        ("default port m0", "1:1", "default needs `via`"),
        ("10.8.0.0/16 blackhole\n10.8.0.0/16 prohibit", "2:1", "has a route already, at r.txt:1:1"),
    ],
)
def test_mistakes_are_named_with_their_place(text: str, place: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text, "r.txt")
    assert caught.value.path == f"r.txt:{place}"
    assert words in caught.value.text


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "ports", "a router has ports"),
        ("m0", "ports[0]:1", "has no address"),
        ("m0 10.1.0.1", "ports[0]:4", "no prefix length"),
        ("m0 10.1.0.1/24 mtu 60", "ports[0]:20", "no number from 68"),
        ("m0 fd01::1/64 mtu 600", "ports[0]:1", "IPv6 needs an mtu of 1280"),
        ("m0 10.1.0.1/24 mac 01:00:00:00:00:00", "ports[0]:20", "no MAC address"),
        ("m0 127.0.0.1/8", "ports[0]:4", "no address of a router"),
        ("m0 10.1.0.1/24; m1 10.1.0.1/16", "ports[1]:2", "is at ports[0]:1 already"),
    ],
)
def test_mistakes_in_ports_are_named(text: str, place: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_ports(text)
    assert caught.value.path == place
    assert words in caught.value.text


def test_a_port_gets_what_is_not_said() -> None:
    first, second = parse_ports(TWO)
    assert first.mtu == 1500
    assert first.mac[0] == 2
    assert first.mac == parse_ports(TWO)[0].mac
    assert [str(address) for address in first.addresses[:2]] == ["10.1.0.1/24", "fd01::1/64"]
    assert first.addresses[2].is_link_local
    assert (second.mtu, second.mac.hex(), len(second.addresses)) == (1400, "020000000001", 1)


def placed() -> list[Placed]:
    """The ports of TWO, by their numbers."""
    return [Placed(each, number) for number, each in enumerate(parse_ports(TWO))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.8.0.0/16 via 10.3.0.9", "links are 10.1.0.0/24"),
        ("10.8.0.0/16 via 10.1.0.9 port 1", "is on no link of that port"),
        ("2001:db8::/32 via fe80::9", "is on every link: say which"),
        ("10.8.0.0/16 via 10.1.0.1", "is an address of this router"),
        ("10.1.0.0/24 via 10.2.0.9", "is the link of a port already"),
        ("10.8.0.0/16 port 7", "none of the router's ports"),
    ],
)
def test_routes_that_lead_nowhere_are_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        derive(placed(), parse(text, "r.txt"), int)


def test_routes_are_in_the_order_of_their_lengths() -> None:
    routes = parse("default via 10.2.0.9\n2001:db8::/32 via fe80::9 port 0\n", "r.txt")
    hops, rows = derive(placed(), routes, int)
    assert list(rows["bits"]) == sorted(rows["bits"])
    found = {
        (str(ip_address(bytes(row["prefix"][: 4 if row["ip_version"] == 4 else 16]))), row["bits"])
        for row in rows
    }
    own = {("10.1.0.1", 32), ("10.2.0.1", 32), ("fd01::1", 128), ("fd01::", 128)}
    assert own | {("0.0.0.0", 0), ("10.1.0.0", 24), ("10.1.0.255", 32)} <= found
    assert rows["hop"].max() < len(hops)


def test_a_large_table_is_that_of_the_file(tmp_path: Path) -> None:
    chance = random.Random(7)
    nets = {
        ip_network((chance.getrandbits(32), chance.randint(9, 30)), strict=False)
        for _ in range(3000)
    }
    nets = {net for net in nets if not net.overlaps(ip_network("10.0.0.0/8"))}
    path = tmp_path / "routes.txt"
    path.write_text("".join(f"{net} via 10.{chance.randint(1, 2)}.0.9\n" for net in sorted(nets)))
    routes = parse(path.read_text(), "routes.txt")
    source = tmp_path / "in.pcapng"
    write_capture(source, datagrams([("client", b"x")]))
    use = NFUse(Router, options={"ports": TWO, "routes": str(path)})
    report = mesh.replay(source, [use], sink=Port.record(tmp_path / "out.pcap", "pcap"))
    assert not report.errors
    assert report["router"].results["routes"] == len(routes) == len(nets)
    assert report["router"].results["not_ours"] == 1, "to another MAC address"


def test_too_much_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.pcapng"
    write_capture(source, datagrams([("client", b"x")]))
    many = " ".join(f"10.{i}.0.1/24" for i in range(70))
    for ports, words in ((f"0 {many}", "at most 64 addresses"), ("nosuch 10.1.0.1/24", "no port")):
        use = NFUse(Router, options={"ports": ports})
        with pytest.raises(NFError, match=words):
            mesh.replay(source, [use], sink=Port.record(tmp_path / "out.pcap", "pcap"))
