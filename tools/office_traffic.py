# SPDX-License-Identifier: Apache-2.0
"""The servers and clients whose traffic tools/record_captures.py records.

Usage: office_traffic.py serve | office | impaired
"""

from __future__ import annotations

import gzip
import random
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WEB4, WEB6, DNS4, DNS6 = "10.20.0.80", "fd20::80", "10.20.0.53", "fd20::53"
A, CNAME, PTR, TXT, AAAA = 1, 5, 12, 16, 28

PAGE = b"<!doctype html><title>Intranet</title><p>Lunch: soup." + b" More soup." * 40 + b"\n"
REPORT = "".join(f"{n},{n * n},{n % 7}\n" for n in range(1500)).encode()
NOISE = random.Random(20).randbytes(48_000)


# ---- DNS (RFC 1035) -----------------------------------------------------------------------------


def name_bytes(name: str) -> bytes:
    """Returns a domain name as labels."""
    return b"".join(bytes([len(x)]) + x.encode() for x in name.split(".")) + b"\0"


ZONE: dict[tuple[str, int], list[tuple[int, bytes]]] = {
    ("intranet.example", A): [(A, socket.inet_aton(WEB4))],
    ("intranet.example", AAAA): [(AAAA, socket.inet_pton(socket.AF_INET6, WEB6))],
    ("www.intranet.example", A): [
        (CNAME, name_bytes("intranet.example")),
        (A, socket.inet_aton(WEB4)),
    ],
    ("80.0.20.10.in-addr.arpa", PTR): [(PTR, name_bytes("intranet.example"))],
    ("notes.example", TXT): [(TXT, bytes([200]) + b"n" * 200)] * 6,
}


def dns_question(ident: int, name: str, qtype: int) -> bytes:
    """Returns a query message for one name, recursion desired."""
    return (
        struct.pack(">6H", ident, 0x0100, 1, 0, 0, 0)
        + name_bytes(name)
        + struct.pack(">HH", qtype, 1)
    )


def dns_answer(query: bytes, room: int) -> bytes:
    """Returns the reply to |query|; truncated (TC) when it is longer than |room|."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    qtype = struct.unpack_from(">H", query, at + 1)[0]
    question = query[12 : at + 5]
    records = ZONE.get((".".join(labels), qtype), [])
    rcode = 0 if any(name == ".".join(labels) for name, _ in ZONE) else 3
    answers = b"".join(
        struct.pack(">HHHIH", 0xC00C, kind, 1, 300, len(data)) + data for kind, data in records
    )
    header = struct.pack(
        ">H5H", *struct.unpack_from(">H", query), 0x8580 | rcode, 1, len(records), 0, 0
    )
    reply = header + question + answers
    if len(reply) <= room:
        return reply
    return query[:2] + struct.pack(">5H", 0x8780 | rcode, 1, 0, 0, 0) + question


class DnsOverUdp(socketserver.BaseRequestHandler):
    """Answers one datagram."""

    def handle(self) -> None:
        """Sends the reply, at most 512 bytes."""
        self.request[1].sendto(dns_answer(self.request[0], 512), self.client_address)


class DnsOverTcp(socketserver.StreamRequestHandler):
    """Answers queries of one connection until it closes."""

    def handle(self) -> None:
        """Sends replies with their length in front."""
        while len(head := self.rfile.read(2)) == 2:
            reply = dns_answer(self.rfile.read(struct.unpack(">H", head)[0]), 65535)
            self.wfile.write(struct.pack(">H", len(reply)) + reply)


def resolve(server: str, name: str, qtype: int) -> None:
    """Asks over UDP, and again over TCP when the answer was truncated."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    query = dns_question(random.randrange(65536), name, qtype)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        for _ in range(4):
            try:
                sock.sendto(query, (server, 53))
                reply = sock.recv(4096)
                break
            except TimeoutError:
                continue
        else:
            return
    if reply[2] & 2:
        with socket.create_connection((server, 53), timeout=5) as stream:
            stream.sendall(struct.pack(">H", len(query)) + query)
            stream.recv(4096)


# ---- HTTP ---------------------------------------------------------------------------------------


class Web(BaseHTTPRequestHandler):
    """A small site: a page, a chunked report, a download, a form, a redirect."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "intranet/1.0", ""

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Sends a response with a length."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        """Serves the site."""
        if self.path == "/":
            self.reply(200, PAGE, Content_Type="text/html")
        elif self.path == "/page.gz":
            self.reply(200, gzip.compress(PAGE, mtime=0), Content_Encoding="gzip")
        elif self.path == "/report.csv":
            self.chunked(REPORT)
        elif self.path == "/download.bin":
            self.reply(200, NOISE, Content_Type="application/octet-stream")
        elif self.path == "/old":
            self.reply(302, Location="/")
        elif self.path == "/fresh":
            self.reply(304, ETag='"1"')
        else:
            self.reply(404, b"no such page\n", Content_Type="text/plain")

    do_HEAD = do_GET

    def chunked(self, body: bytes) -> None:
        """Sends a body of unknown length in chunks of 1500 bytes."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(body), 1500):
            part = body[at : at + 1500]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def do_POST(self) -> None:
        """Reads a form and thanks for it."""
        size = len(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(201, b"thank you for %d bytes\n" % size, Location="/uploads/1")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class Web6(ThreadingHTTPServer):
    """The site over IPv6."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        """Binds without a reverse look-up of the name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "intranet.example", 80


class Web4(Web6):
    """The site over IPv4."""

    address_family = socket.AF_INET


class Udp6(socketserver.UDPServer):
    """DNS over UDP on IPv6."""

    address_family = socket.AF_INET6


def serve() -> None:
    """Runs all servers until the process ends."""
    socketserver.TCPServer.allow_reuse_address = True
    servers = [
        Web4((WEB4, 80), Web),
        Web6((WEB6, 80), Web),
        socketserver.UDPServer((DNS4, 53), DnsOverUdp),
        Udp6((DNS6, 53), DnsOverUdp),
        socketserver.TCPServer((DNS4, 53), DnsOverTcp),
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


def curl(*arguments: str, source: str = "10.20.0.11") -> None:
    """Runs curl with an address of its own; a failing transfer is part of the traffic."""
    address = f"[{WEB6}]" if ":" in source else WEB4
    common = ("curl", "-s", "--max-time", "20", "--interface", source)
    names = ("--resolve", f"intranet.example:80:{address}")
    subprocess.run([*common, *names, *arguments], check=False, stdout=subprocess.DEVNULL)


def pipelined() -> None:
    """Sends three requests before it reads the first response."""
    with socket.create_connection((WEB4, 80), source_address=("10.20.0.12", 0)) as sock:
        for path in ("/", "/missing", "/old"):
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: intranet.example\r\n\r\n".encode())
        time.sleep(0.2)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass


def split_attack() -> None:
    """Sends words that a payload scanner looks for, cut in the middle of a word."""
    body = b"file=../../../../etc/pas", b"swd&run=cmd.e", b"xe\n"
    size = sum(map(len, body))
    head = f"POST /form HTTP/1.1\r\nHost: intranet.example\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection((WEB4, 80), source_address=("10.20.0.13", 0)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (head.encode(), *body):
            sock.sendall(part)
            time.sleep(0.02)
        sock.recv(4096)


def knock(source: str, port: int, wait_s: float) -> None:
    """Tries to connect, and gives up."""
    with socket.socket() as sock:
        sock.bind((source, 0))
        sock.settimeout(wait_s)
        try:
            sock.connect((WEB4, port))
        except OSError:
            return


def office() -> None:
    """Some seconds of office life: browsing, names, a form, refused ports, two scanners."""
    for server in (DNS4, DNS6):
        for name, qtype in (
            ("intranet.example", A),
            ("intranet.example", AAAA),
            ("www.intranet.example", A),
        ):
            resolve(server, name, qtype)
    resolve(DNS4, "80.0.20.10.in-addr.arpa", PTR)
    resolve(DNS4, "no-such-name.example", A)
    resolve(DNS4, "notes.example", TXT)
    site = "http://intranet.example"
    curl(
        f"{site}/", f"{site}/page.gz", f"{site}/report.csv", f"{site}/missing", "-L", f"{site}/old"
    )
    curl("-I", f"{site}/")
    curl("-d", "name=ada&text=hello", f"{site}/form", source="10.20.0.12")
    curl("-H", 'If-None-Match: "1"', f"{site}/fresh", source="10.20.0.12")
    curl(f"{site}/download.bin", source="10.20.0.13")
    curl(f"{site}/", f"{site}/report.csv", source="fd20::12")
    pipelined()
    split_attack()
    keep_alive = HTTPConnection(WEB4, source_address=("10.20.0.13", 0))
    for path in ("/", "/fresh", "/"):
        keep_alive.request("GET", path, headers={"User-Agent": "office/1.0"})
        keep_alive.getresponse().read()
    for port in (8080, 8443, 3389):
        knock("10.20.0.12", port, 1)
    for port in range(20, 60):
        knock("10.20.0.66", port, 1)
    for port in range(100, 124):
        knock("10.20.0.67", port, 0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"anybody there?", (WEB4, 9999))
        ping = struct.pack(">BBHHH", 8, 0, 0, 7, 1) + b"ping" * 8
        total = sum(struct.unpack(f">{len(ping) // 2}H", ping))
        total = (total & 0xFFFF) + (total >> 16)
        ping = ping[:2] + struct.pack(">H", ~total & 0xFFFF) + ping[4:]
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.bind(("10.20.0.11", 0))
            raw.sendto(ping, (WEB4, 0))
            raw.recv(4096)
    keep_alive.close()


def impaired() -> None:
    """Downloads and an upload over a wire that loses and swaps frames."""
    resolve(DNS4, "intranet.example", A)
    site = "http://intranet.example"
    curl(f"{site}/download.bin", f"{site}/report.csv")
    curl("--data-binary", "x" * 20_000, f"{site}/form", source="10.20.0.12")
    curl(f"{site}/report.csv", source="fd20::12")


if __name__ == "__main__":
    {"serve": serve, "office": office, "impaired": impaired}[sys.argv[1]]()
