"""Descriptors: who gets them, who does not, and what is counted."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest
from mesh_rig import few_descriptors_left, wait_for
from patience import PATIENCE_S

from mesh.errors import AttachError
from mesh.fdclient import DescriptorClient
from mesh.fdpass import MAX_REFUSED, DescriptorService, Handle, make_token

IS_ROOT = os.geteuid() == 0
CLIENT = """
import os, sys
from pathlib import Path
from mesh.errors import AttachError
from mesh.fdclient import DescriptorClient
if int(sys.argv[3]):
    os.setgroups([])
    os.setresgid(*[int(sys.argv[4])] * 3)
    os.setresuid(*[int(sys.argv[3])] * 3)
try:
    client = DescriptorClient(Path(sys.argv[1]), "nf", bytes.fromhex(sys.argv[2]))
    print(sorted(client.fetch(["a"])))
except AttachError as error:
    print(error)
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[DescriptorService]:
    made = DescriptorService(tmp_path / "fd.sock")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def objects() -> Iterator[dict[str, Handle]]:
    fds = {name: os.memfd_create(name) for name in ("a", "b", "c")}
    for name, fd in fds.items():
        os.write(fd, name.encode() * 10)
    yield {name: Handle(name, fd, 10, "ordinary") for name, fd in fds.items()}
    for fd in fds.values():
        os.close(fd)


@contextmanager
def serving(service: DescriptorService) -> Iterator[None]:
    """Serves in a thread, as the supervisor's loop does."""
    is_over = threading.Event()

    def loop() -> None:
        while not is_over.is_set():
            if select.select([service.fileno()], [], [], 0.01)[0]:
                service.serve()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def content(handle: Handle) -> bytes:
    try:
        return os.pread(handle.fd, 100, 0)
    finally:
        os.close(handle.fd)


def attach(service: DescriptorService, token: bytes, want: list[str], name: str = "nf") -> str:
    """Attaches; returns what came, or the error."""
    client = None
    try:
        client = DescriptorClient(service.path, name, token, timeout_s=PATIENCE_S)
        return ",".join(content(handle).decode() for handle in client.fetch(want).values())
    except AttachError as error:
        return str(error)
    finally:
        if client is not None:
            client.close()


def test_descriptors_come_in_the_order_asked_for(service, objects):
    token = make_token()
    service.offer("nf", token, os.getuid(), objects)
    with serving(service):
        assert attach(service, token, ["c", "a"]) == "c" * 10 + "," + "a" * 10
    assert service.served == 2
    assert not service.refused


def test_descriptors_close_on_exec(service, objects):
    token = make_token()
    service.offer("nf", token, os.getuid(), objects)
    with serving(service):
        client = DescriptorClient(service.path, "nf", token)
        fd = client.fetch(["a"])["a"].fd
    assert not os.get_inheritable(fd)
    os.close(fd)
    client.close()


def test_further_objects_may_be_asked_for_when_they_were_granted(service, objects):
    token = make_token()
    service.offer("nf", token, os.getuid(), {"a": objects["a"]})
    with serving(service):
        client = DescriptorClient(service.path, "nf", token)
        assert content(client.fetch(["a"])["a"]) == b"a" * 10
        with pytest.raises(AttachError, match="may not have 'b'"):
            client.fetch(["b"])
        service.extend("nf", {"b": objects["b"]})
        assert content(client.fetch(["b"])["b"]) == b"b" * 10
        service.revoke("b")
        with pytest.raises(AttachError, match="may not have 'b'"):
            client.fetch(["b"])
        client.close()
    assert service.refused == {"object": 2}


def test_a_token_serves_once(service, objects):
    token = make_token()
    service.offer("nf", token, os.getuid(), objects)
    with serving(service):
        assert attach(service, token, ["a"]) == "a" * 10
        assert "attached already" in attach(service, token, ["a"])
        service.offer("nf", make_token(), os.getuid(), objects)
        assert "wrong token" in attach(service, token, ["a"])
    assert service.refused == {"twice": 1, "token": 1}


def test_wrong_token_and_unknown_name_are_refused_and_the_token_is_not_logged(
    service, objects, caplog
):
    token = make_token()
    service.offer("nf", token, os.getuid(), objects)
    with serving(service):
        assert "wrong token" in attach(service, make_token(), ["a"])
        assert "wrong token" in attach(service, b"", ["a"])
        assert "no process 'other'" in attach(service, token, ["a"], "other")
        assert attach(service, token, ["a"]) == "a" * 10
    assert service.refused == {"token": 2, "name": 1}
    assert token.hex() not in caplog.text
    assert str(token) not in caplog.text


def test_a_withdrawn_process_gets_nothing(service, objects):
    token = make_token()
    service.offer("nf", token, os.getuid(), objects)
    service.withdraw("nf")
    with serving(service):
        assert "no process 'nf'" in attach(service, token, ["a"])


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\xc1", "malformed"),
        (b"x" * 70000, "malformed"),
        (msgpack.packb([1, 2]), "malformed"),
        (msgpack.packb({"v": 1, "name": 3, "token": b""}), "malformed"),
        (msgpack.packb({"v": 2, "name": "nf", "token": b"", "want": []}), "version"),
        (msgpack.packb({"name": "nf"}), "version"),
    ],
)
def test_garbage_is_refused_and_ends_the_connection(service, raw, reason):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(PATIENCE_S)
    sock.connect(str(service.path))
    with serving(service):
        sock.send(raw)
        assert msgpack.unpackb(sock.recv(65536))["ok"] is False
        assert sock.recv(65536) == b""
    sock.close()
    assert service.refused == {reason: 1}


def test_a_want_that_is_no_list_of_known_names_is_refused(service, objects):
    token = make_token()
    service.offer("nf", token, os.getuid(), objects)
    with serving(service):
        client = DescriptorClient(service.path, "nf", token)
        for want in ([3], ["a", None], ["x" * 5000]):
            with pytest.raises(AttachError, match="may not have"):
                client.fetch(want)
        client.close()


def test_a_process_that_asks_for_what_it_may_not_have_is_cut_off(service, objects):
    token = make_token()
    service.offer("nf", token, os.getuid(), {"a": objects["a"]})
    with serving(service):
        client = DescriptorClient(service.path, "nf", token, timeout_s=PATIENCE_S)
        for _ in range(MAX_REFUSED):
            with pytest.raises(AttachError):
                client.fetch(["b"])
        with pytest.raises(AttachError, match=r"no answer|closed"):
            client.fetch(["a"])
        client.close()


def test_strangers_cannot_keep_others_out(service, objects):
    token = make_token()
    service.offer("nf", token, os.getuid(), objects)
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(60)]
    with serving(service):
        for sock in silent:
            sock.connect(str(service.path))
        assert attach(service, token, ["a"]) == "a" * 10
    for sock in silent:
        sock.close()
    assert service.refused["silent"] >= 20


def test_too_few_descriptors_is_said_with_the_remedy(service, objects):
    token = make_token()
    service.offer("nf", token, os.getuid(), objects)
    with serving(service):
        client = DescriptorClient(service.path, "nf", token, timeout_s=PATIENCE_S)
        with few_descriptors_left(1), pytest.raises(AttachError, match="ulimit -n"):
            client.fetch(["a", "b", "c"])
        client.close()


def test_no_supervisor_is_a_clear_error(tmp_path):
    with pytest.raises(AttachError, match="is the supervisor running"):
        DescriptorClient(tmp_path / "fd.sock", "nf", make_token())


def test_the_socket_is_the_users_alone_and_goes_away(tmp_path):
    service = DescriptorService(tmp_path / "fd.sock")
    assert service.path.stat().st_mode & 0o777 == 0o600
    service.close()
    assert not service.path.exists()


@pytest.mark.skipif(not IS_ROOT, reason="needs root: a process of another user attaches")
def test_a_process_of_another_user_is_refused(objects):
    folder = Path(f"/tmp/nfmesh-test-{os.getpid()}")
    folder.mkdir(mode=0o711)
    service = DescriptorService(folder / "fd.sock", gid=64001)
    try:
        token = make_token()
        with serving(service):
            service.offer("nf", token, 0, objects)
            assert "runs as uid 0, the peer as 64001" in run_as(64001, service, token)
            service.offer("nf", token, 64001, objects)
            assert "wrong token" in run_as(64001, service, make_token())
            assert "runs as uid 64001, the peer as 0" in run_as(0, service, token)
            assert run_as(64001, service, token) == "['a']"
            assert "attached already" in run_as(64001, service, token)
            assert "Permission denied" in run_as(64002, service, token, gid=64002)
        assert service.refused == {"uid": 2, "token": 1, "twice": 1}
    finally:
        service.close()
        folder.rmdir()


def run_as(uid: int, service: DescriptorService, token: bytes, gid: int = 64001) -> str:
    """Attaches in a process that becomes another user once everything is loaded."""
    command = [sys.executable, "-c", CLIENT, str(service.path), token.hex(), str(uid), str(gid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


# ---- guests -------------------------------------------------------------------------------------


class Notes:
    """Writes down what a service tells of guests."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def came(self, name: str, uid: int) -> None:
        self.told.append(("came", f"{name} {uid}"))

    def takes(self, name: str, objects: Sequence[str]) -> None:
        self.told.append(("takes", ",".join(objects)))

    def left(self, name: str) -> None:
        self.told.append(("left", name))


@pytest.fixture
def notes(service: DescriptorService, objects: dict[str, Handle]) -> Notes:
    service.host = made = Notes()
    digest = hashlib.sha256(b"shown by the guest").digest()
    service.expect("guest", digest, {"key": b"k" * 32, "arguments": ["--skip=0:1"]}, objects)
    return made


def test_a_guest_shows_what_has_the_hash_and_is_welcome_again_and_again(service, notes):
    with serving(service):
        for _ in range(2):
            client = DescriptorClient(
                service.path, "guest", b"shown by the guest", timeout_s=PATIENCE_S
            )
            assert content(client.fetch(["a"])["a"]) == b"a" * 10
            assert client.welcome == {"key": b"k" * 32, "arguments": ["--skip=0:1"]}
            assert client.is_open
            client.close()
            wait_for(lambda: notes.told[-1] == ("left", "guest"))
    uid = os.getuid()
    assert notes.told == 2 * [("came", f"guest {uid}"), ("takes", "a"), ("left", "guest")]
    assert not service.refused


def test_one_process_of_a_guest_at_a_time(service, notes):
    with serving(service):
        first = DescriptorClient(service.path, "guest", b"shown by the guest", timeout_s=PATIENCE_S)
        content(first.fetch(["a"])["a"])
        text = attach(service, b"shown by the guest", ["a"], "guest")
        assert "attached already" in text
        first.close()
        wait_for(lambda: ("left", "guest") in notes.told)
        assert attach(service, b"shown by the guest", ["a"], "guest") == "a" * 10
    assert service.refused == {"twice": 1}


@pytest.mark.parametrize(
    "token",
    [b"guessed", b"", hashlib.sha256(b"shown by the guest").digest(), b"x" * 5000, "text", 7, None],
)
def test_a_guest_without_its_token_gets_nothing(service, notes, token):
    with serving(service):
        assert "refused" in attach(service, token, ["a"], "guest")
    assert sum(service.refused.values()) == 1
    assert notes.told == []


def test_the_token_of_a_child_is_no_hash(service, objects):
    token = make_token()
    service.offer("nf", token, os.getuid(), objects)
    service.expect("guest", token, {}, objects)
    with serving(service):
        assert "wrong token" in attach(service, token, ["a"], "guest")
        assert attach(service, token, ["a"]) == "a" * 10


def test_a_guest_that_is_sent_away_sees_it(service, notes):
    with serving(service):
        client = DescriptorClient(
            service.path, "guest", b"shown by the guest", timeout_s=PATIENCE_S
        )
        content(client.fetch(["a"])["a"])
    service.send_away("guest")
    assert not client.is_open
    assert notes.told[-1] == ("left", "guest")
    client.close()


def test_a_guest_that_is_expected_no_longer_is_not_told_of(service, notes):
    with serving(service):
        client = DescriptorClient(
            service.path, "guest", b"shown by the guest", timeout_s=PATIENCE_S
        )
        content(client.fetch(["a"])["a"])
    service.withdraw("guest")
    assert not client.is_open
    assert ("left", "guest") not in notes.told
    client.close()
