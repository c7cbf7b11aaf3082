# SPDX-License-Identifier: Apache-2.0
"""Plans that do not fit a worker are refused before anything is mapped."""

from __future__ import annotations

import pytest

import mesh
from mesh import NF, EventBatch, on
from mesh.capacity import MAX_RINGS, MAX_SUBSCRIPTIONS, check_capacity
from mesh.compose import NFUse
from mesh.errors import CapacityError
from mesh.module import ModuleInfo
from mesh.testing import conversation, replay_frames

SIZES = {"n_records": 65536, "n_small": 16384, "n_large": 256}


class Bytes(NF):
    @on("tcp.data")
    def heard(self, batch: EventBatch) -> None: ...


def many_handlers(n: int) -> type[NF]:
    def heard(self: NF, batch: EventBatch) -> None: ...

    for _ in range(n):
        on("packet")(heard)
    return type("Many", (NF,), {"heard": heard})


def check(*uses: NFUse, sizes: dict[str, int] = SIZES) -> None:
    plan = mesh.make_plan(uses)
    check_capacity(plan, [ModuleInfo.builtin(m.name).descriptor for m in plan.modules], sizes)


def test_a_common_plan_fits():
    check(NFUse(Bytes))


def test_too_many_nfs():
    uses = [NFUse(Bytes, f"n{i}") for i in range(MAX_RINGS + 1)]
    check(*uses[1:])
    with pytest.raises(
        CapacityError, match="65 NFs with packets to hear, a worker has room for 64"
    ):
        check(*uses)


def test_too_many_subscriptions():
    check(NFUse(many_handlers(MAX_SUBSCRIPTIONS)))
    with pytest.raises(CapacityError, match="257 native subscriptions"):
        check(NFUse(many_handlers(MAX_SUBSCRIPTIONS + 1)))


def test_held_pieces_have_to_fit_the_reserve_of_records():
    with pytest.raises(CapacityError, match=r"flow_slots: 4096 .* raise worker.n_records to 32768"):
        replay_frames(conversation(), [Bytes], worker={"n_records": 8192})
    report = replay_frames(
        conversation([("client", b"x")]),
        [Bytes],
        worker={"n_records": 8192},
        limits={"tcp_stream": {"flow_slots": 100}},
    )
    assert report["bytes"].events == 1
