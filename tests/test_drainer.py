# SPDX-License-Identifier: Apache-2.0
"""Rings of NFs that are gone, whose last owner may still write there."""

from __future__ import annotations

import mmap
import struct

from mesh._ffi import native
from mesh.drainer import MOST_RUNS, Drainer
from mesh.objects import Objects

MAGIC, AT_HEAD, AT_TAIL, ENTRIES = 0x676E69726D666E00, 64, 128, 64


def make_ring(objects: Objects, name: str) -> mmap.mmap:
    """Makes a ring as a worker lays it out; returns it as an NF may write it."""
    lib = native().lib
    objects.create(name, int(lib.nfm_ring_object_size(ENTRIES)))
    memory = mmap.mmap(objects[name].fd, 4096)
    struct.pack_into("<QII", memory, 0, MAGIC, int(lib.nfm_abi_version()), ENTRIES)
    return memory


def test_what_is_in_a_ring_is_passed():
    objects = Objects()
    memory = make_ring(objects, "ring/x/w0")
    drainer = Drainer(objects)
    drainer.add("x", ["ring/x/w0"])
    struct.pack_into("<Q", memory, AT_HEAD, 50)
    drainer.drain()
    assert drainer.dropped == {"x": 50}
    assert struct.unpack_from("<Q", memory, AT_TAIL) == (50,)
    drainer.close()
    objects.close()


def test_a_ring_that_says_more_has_come_than_can_does_not_hold_up_the_supervisor():
    objects = Objects()
    memory = make_ring(objects, "ring/x/w0")
    drainer = Drainer(objects)
    drainer.add("x", ["ring/x/w0"])
    struct.pack_into("<Q", memory, AT_HEAD, 1 << 60)
    drainer.drain()
    assert 0 < drainer.dropped["x"] <= MOST_RUNS * ENTRIES
    drainer.close()
    objects.close()
