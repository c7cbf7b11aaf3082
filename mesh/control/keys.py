# SPDX-License-Identifier: Apache-2.0
"""Keys for control over the network: CURVE key pairs, four files of 40 characters (Z85) each.

A stack has `server.key` and `client.pub`; who orders it about has `client.key` and `server.pub`.
`client.pub` may list several keys, one a line: each of them is let in.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from mesh.errors import SpecError, system_text

__all__ = ["FILES", "REMOTE", "ClientKeys", "ServerKeys", "make_keys", "sealing_key", "write_keys"]

FILES = ("server.key", "server.pub", "client.key", "client.pub")
REMOTE = "remote"
"""Who asks over the network, as messages name it; its keys are the transport's business."""
_LENGTH, _BYTES = 40, 32
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """A stack's side: its own pair, and whom it lets in."""

    secret: bytes = field(repr=False)
    public: bytes
    clients: frozenset[bytes]

    @classmethod
    def read(cls, folder: Path) -> ServerKeys:
        """Reads server.key and client.pub.

        Raises:
            SpecError: a file is missing or holds no key.
        """
        secret = _one(folder / "server.key")
        clients = _keys(folder / "client.pub")
        return cls(secret, zmq.curve_public(secret), frozenset(clients))


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """The side that orders a stack about: its own pair, and the stack's public key."""

    secret: bytes = field(repr=False)
    public: bytes
    server: bytes

    @classmethod
    def read(cls, folder: Path) -> ClientKeys:
        """Reads client.key and server.pub.

        Raises:
            SpecError: a file is missing or holds no key.
        """
        secret = _one(folder / "client.key")
        return cls(secret, zmq.curve_public(secret), _one(folder / "server.pub"))


def make_keys() -> dict[str, bytes]:
    """Makes two pairs: file name → contents."""
    server_public, server_secret = zmq.curve_keypair()
    client_public, client_secret = zmq.curve_keypair()
    return {
        "server.key": server_secret,
        "server.pub": server_public,
        "client.key": client_secret,
        "client.pub": client_public,
    }


def write_keys(folder: Path) -> list[Path]:
    """Makes keys and writes their files, which only this user may read; replaces none.

    Raises:
        SpecError: one of the files is there, or cannot be written.
    """
    made = make_keys()
    paths = [folder / name for name in FILES]
    for path in paths:
        if path.exists():
            raise SpecError(str(path), "is there already; name another folder, or remove it")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in paths:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with open(fd, "wb") as file:
                file.write(made[path.name])
    except OSError as error:
        raise SpecError(str(folder), system_text(error)) from error
    return paths


def sealing_key(server_public: bytes) -> bytes:
    """Returns the key that messages are sealed with inside of an encrypted connection.

    The connection says who is who; the seal keeps form, order and numbers as on the host.
    """
    return hashlib.sha256(b"nfmesh control over the network" + server_public).digest()


def _one(path: Path) -> bytes:
    keys = _keys(path)
    if len(keys) != 1:
        raise SpecError(str(path), f"holds {len(keys)} keys instead of one")
    return keys[0]


def _keys(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            words = file.read(_MAX_BYTES).split()
    except OSError as error:
        raise SpecError(str(path), system_text(error)) from error
    for word in words:
        try:
            is_key = len(word) == _LENGTH and len(z85.decode(word)) == _BYTES
        except (ValueError, KeyError):
            is_key = False
        if not is_key:
            raise SpecError(str(path), "holds something that is no key; make some: nfmesh keys")
    if not words:
        raise SpecError(str(path), "holds no key; make some: nfmesh keys")
    return words
