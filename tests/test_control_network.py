# SPDX-License-Identifier: Apache-2.0
"""Orders over the network: who is let in, what may be asked, what becomes of the rest."""

import hashlib
import os
import socket
import tempfile
import threading
from pathlib import Path

import pytest
import zmq
from fake_host import FakeHost
from loopback import has_ipv6
from patience import PATIENCE_S, until

from mesh.control import messages as m
from mesh.control.desired import Desired, save_desired
from mesh.control.keys import FILES, ClientKeys, ServerKeys, make_keys, sealing_key, write_keys
from mesh.control.remote import Remote
from mesh.control.tool import ask
from mesh.errors import ProcessError, SpecError

OFFICE = Path(__file__).parent / "captures" / "office.pcap"
TOKEN = hashlib.sha256(b"a token").hexdigest()
QUICK_S = 0.5


@pytest.fixture
def keys(tmp_path):
    write_keys(tmp_path / "keys")
    return tmp_path / "keys"


def host_with(keys, address="tcp://127.0.0.1:*"):
    """A stack without NFs whose controller listens on a port of its choice."""
    run = Path(tempfile.mkdtemp(prefix="nfm"))
    listen = {"control": address, "keys": str(keys)}
    save_desired(run, Desired(1, {"ports": [{"pcap": str(OFFICE)}], "listen": listen}))
    made = FakeHost(run, ["--listen", address, "--keys", str(keys)])
    until(lambda: made.is_state("running"), "the mesh to run")
    return made


@pytest.fixture
def host(keys):
    made = host_with(keys)
    yield made
    errors = made.close()
    assert "Traceback" not in errors, errors
    assert made.process.returncode == 0


def address_of(host):
    """Returns where it listens, once it does."""
    found = until(lambda: (s := host.status()["listen"]) and s["is_open"] and s, "listening")
    return found["state"].rpartition(" ")[2]


@pytest.fixture
def stack(host, keys):
    with Remote(address_of(host), ClientKeys.read(keys), PATIENCE_S) as made:
        yield made


def asked(host, call):
    """Makes a call that takes part of the mesh's processes, which work meanwhile."""
    found = []

    def run():
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        host.work()
        thread.join(0.005)
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def test_a_known_key_asks_for_the_status(host, stack):
    assert stack.status()["state"] == "running"
    assert stack.status()["attachments"] == {}


def test_an_nf_is_put_in_changed_and_removed_while_packets_flow(host, stack):
    entry = {"name": "scan", "use": "syn_scan"}
    found = asked(host, lambda: stack.put_nf(entry, TOKEN))
    assert (found["added"], found["revision"]) == (["scan"], 2)
    known = stack.status()["attachments"]["scan"]
    assert (known["place"], known["phase"]) == ("pod", "away")
    assert asked(host, lambda: stack.put_nf(entry, TOKEN))["revision"] == 0
    found = asked(host, lambda: stack.put_nf({**entry, "where": "port 443"}, TOKEN))
    assert found["changed"] == ["scan"]
    assert stack.status()["subscriptions"][0]["where"].endswith("(port 443)")
    assert asked(host, lambda: stack.remove_nf("scan"))["nf"] == "scan"
    until(lambda: host.status()["attachments"] == {}, "the NF to be gone")
    assert asked(host, lambda: stack.remove_nf("scan")) == {
        "nf": "scan",
        "report": None,
        "revision": 0,
    }


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        ({"name": "scan", "use": "syn_scan", "where": "no filter ("}, "nfs.scan.where"),
        ({"name": "scan", "use": "syn_scan", "events": ["nonsense"]}, "nfs.scan"),
        ({"name": "scan", "use": "no_such_nf"}, "nfs.scan.use"),
        ({"name": "scan", "use": "syn_scan", "config": {"limits": 3}}, "nfs.scan.config.limits"),
        ({"name": "scan", "use": "syn_scan", "stage": 999}, "nfs.scan.stage"),
        ({"use": "syn_scan"}, "nfs[0]"),
    ],
)
def test_what_does_not_compose_is_refused_with_its_place(host, stack, entry, place):
    for order in (stack.check_nf, lambda entry: stack.put_nf(entry, TOKEN)):
        with pytest.raises(SpecError) as error:
            asked(host, lambda order=order: order(entry))
        assert error.value.path.startswith(place)
        assert stack.status()["revision"] == 1 or stack.status()["attachments"] == {}


def test_a_check_says_what_would_change_and_changes_nothing(host, stack):
    entry = {"name": "scan", "use": "syn_scan"}
    found = asked(host, lambda: stack.check_nf(entry))
    assert (found["added"], found["revision"]) == (["scan"], 0)
    assert stack.status()["attachments"] == {}
    asked(host, lambda: stack.put_nf(entry, TOKEN))
    assert asked(host, lambda: stack.check_nf(entry, TOKEN))["changed"] == []
    before = stack.status()["subscriptions"]
    assert asked(host, lambda: stack.check_nf({**entry, "where": "tcp"}, TOKEN))["changed"]
    assert stack.status()["subscriptions"] == before


def test_an_nf_of_another_image_waits_until_it_declares_itself(host, stack):
    asked(host, lambda: stack.put_nf({"name": "mine", "use": "/app/mine.py:Mine"}, TOKEN))
    assert stack.status()["attachments"]["mine"]["phase"] == "away"
    assert stack.status()["subscriptions"] == []


def test_who_has_no_listed_key_is_refused_and_counted(host, keys):
    address, own = address_of(host), make_keys()
    stranger = ClientKeys(own["client.key"], own["client.pub"], ClientKeys.read(keys).server)
    with Remote(address, stranger) as stack:
        with pytest.raises(ProcessError, match="not let in"):
            stack.status(QUICK_S)
        until(lambda: host.status()["refused"].get("network.unauthorised"), "the count")


def test_who_speaks_no_curve_is_refused_and_counted(host, stack):
    address = address_of(host)
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n" + bytes(64))
        with zmq.Context() as context, context.socket(zmq.DEALER) as bare:
            bare.setsockopt(zmq.LINGER, 0)
            bare.connect(address)
            until(lambda: host.status()["refused"].get("network.handshake"), "the count")
        assert stack.status()["state"] == "running"


def test_only_some_orders_are_taken_from_afar(host, stack, keys):
    stack.status()
    with pytest.raises(ProcessError):
        stack.ask(m.Apply(spec={}), QUICK_S)
    assert stack.status()["refused"]["role"] == 1
    # and a process' name does not help: over the network everybody is `remote`
    stack._sealer.name = "tool"
    with pytest.raises(ProcessError):
        stack.ask(m.Status(), QUICK_S)
    assert until(lambda: host.status()["refused"].get("mac"), "the count") == 1


def test_malformed_messages_are_refused_and_counted(host, stack, keys):
    stack.status()
    for frames in ([b"x"], [b"\xc1", b""], [b"a", b"b", b"c"]):
        stack._socket.send_multipart(frames)
    until(lambda: stack.status()["refused"].get("frames", 0) >= 2, "the count")
    assert stack.status()["state"] == "running"


def test_keys_may_come_later_and_change(tmp_path):
    folder = tmp_path / "later"
    host = host_with(folder)
    try:
        until(lambda: "waits for keys" in host.status()["listen"].get("state", ""), "its words")
        write_keys(folder)
        with Remote(address_of(host), ClientKeys.read(folder), PATIENCE_S) as stack:
            assert stack.status()["state"] == "running"
        first = address_of(host)
        for name in FILES:
            (folder / name).unlink()
        write_keys(folder)
        again = until(lambda: (a := address_of(host)) != first and a, "the new door")
        with Remote(again, ClientKeys.read(folder), PATIENCE_S) as stack:
            assert stack.status()["state"] == "running"
    finally:
        host.close()


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_orders_come_by_either_family(keys):
    host = host_with(keys, "tcp://*:*")
    try:
        port = address_of(host).rpartition(":")[2]
        for address in ("127.0.0.1", "[::1]"):
            with Remote(f"tcp://{address}:{port}", ClientKeys.read(keys), PATIENCE_S) as stack:
                assert stack.status()["state"] == "running"
    finally:
        host.close()


def test_the_stack_may_be_away_meanwhile(keys):
    host = host_with(keys)
    with Remote(address_of(host), ClientKeys.read(keys), PATIENCE_S) as stack:
        assert stack.status()["state"] == "running"
        host.kill()
        with pytest.raises(ProcessError):
            stack.status(QUICK_S)
    host.close()


# ---- keys ---------------------------------------------------------------------------------------


def test_keys_are_for_this_user_alone_and_are_not_replaced(keys):
    assert all((keys / name).stat().st_mode & 0o777 == 0o600 for name in FILES)
    with pytest.raises(SpecError, match="is there already"):
        write_keys(keys)
    server, client = ServerKeys.read(keys), ClientKeys.read(keys)
    assert server.public == client.server
    assert server.clients == {client.public}
    assert len(sealing_key(server.public)) == 32


@pytest.mark.parametrize("text", [b"", b"short", b"~" * 40, b"x" * 41])
def test_what_is_no_key_is_refused_in_words(keys, text):
    (keys / "server.key").write_bytes(text)
    with pytest.raises(SpecError, match="nfmesh keys"):
        ServerKeys.read(keys)


def test_several_clients_may_be_let_in(keys):
    other, _ = zmq.curve_keypair()
    with (keys / "client.pub").open("ab") as file:
        file.write(b"\n" + other + b"\n")
    assert other in ServerKeys.read(keys).clients


def test_an_address_that_is_none_is_said(keys):
    with pytest.raises(SpecError, match="write tcp://HOST:PORT"):
        Remote("tcp:/nowhere", ClientKeys.read(keys))


def test_the_host_alone_is_asked_by_the_tool_key(host):
    assert ask(host.run, m.Status(), PATIENCE_S)["listen"]["address"].startswith("tcp://")
    assert os.stat(host.run / "control").st_mode & 0o777 == 0o666
