# SPDX-License-Identifier: Apache-2.0
"""Whether a plan fits a worker of given sizes. Pure; asked before anything is mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mesh.errors import CapacityError
from mesh.module import ModuleDescriptor
from mesh.plan import Level, Plan, PlannedNF
from mesh.words import OWN_DOMAIN

__all__ = ["SIZES", "check_capacity"]

MAX_RINGS = 64
MAX_SUBSCRIPTIONS = 256
MAX_MODULES = 16
"""What one worker holds (NFM_MAX_RINGS, NFM_MAX_SUBS, NFM_MAX_MODULES)."""
MAX_DOMAINS = 16
BURST = 32
INBOX_WORDS = {"n_records": "records", "n_small": "slots", "n_large": "large_slots"}
"""Sizes of an inbox, and what a spec calls them."""
SIZES = ("n_records", "n_small", "n_large")
"""What it looks at, by name in nfm_worker_config."""


def check_capacity(
    plan: Plan,
    modules: Sequence[ModuleDescriptor],
    sizes: Mapping[str, int],
    inboxes: Mapping[str, Mapping[str, int]] | None = None,
) -> None:
    """Checks a plan's worst cases against a worker's sizes.

    The worker takes packets only while a quarter of its records is free; what one packet may set
    free at once, the held pieces of its flow, has to fit in there.

    Args:
        plan: the plan.
        modules: descriptors of its modules, in its order.
        sizes: of the worker, by name in nfm_worker_config.
        inboxes: domain → sizes of its inbox, by name in nfm_domain_config.

    Raises:
        CapacityError: names the quota, what it asks for and what there is.
    """
    rings = sum(len({bool(sub.method) for sub in nf.subscriptions if sub.parts}) for nf in plan.nfs)
    parts = sum(len(sub.parts) for nf in plan.nfs for sub in nf.subscriptions)
    _at_most("NFs with packets to hear", rings, MAX_RINGS)
    _at_most("native subscriptions", parts, MAX_SUBSCRIPTIONS)
    _at_most("stack modules", len(plan.modules), MAX_MODULES)
    _at_most("domains", len(inboxes or {}), MAX_DOMAINS)
    own = {size: f"worker.{size}" for size in SIZES}
    _check_holds(plan, OWN_DOMAIN, sizes, own)
    _check_pieces(plan, modules, sizes["n_records"] // 4, (4, own["n_records"], "records"))
    for name, inbox in (inboxes or {}).items():
        words = {size: f"domains.{name}.memory.{word}" for size, word in INBOX_WORDS.items()}
        _check_holds(plan, name, inbox, words)
        if any(nf.domain == name and hears_data(nf) for nf in plan.nfs):
            for size in ("n_records", "n_small"):
                _check_pieces(plan, modules, inbox[size] // 2, (2, words[size], "places"))


def hears_data(nf: PlannedNF) -> bool:
    """True when it needs streams."""
    return any(sub.level >= Level.DATA for sub in nf.subscriptions)


def _check_holds(
    plan: Plan, domain: str, sizes: Mapping[str, int], words: Mapping[str, str]
) -> None:
    """Holds leave enough of one memory. Its sizes are called `words` in a spec."""
    holds = sum(nf.holds for nf in plan.nfs if nf.domain == domain)
    for size, share in (("n_records", 4), ("n_small", 2), ("n_large", 2)):
        if holds > sizes[size] // share > 0:
            raise CapacityError(
                f"NFs may hold {holds} entries together, {words[size]} {sizes[size]} leaves "
                f"{sizes[size] // share} for that; lower `hold` of an NF, or raise "
                f"{words[size]} to {_power_of_two(share * holds)}"
            )


def _check_pieces(
    plan: Plan,
    modules: Sequence[ModuleDescriptor],
    reserve: int,
    memory: tuple[int, str, str],
) -> None:
    """The pieces of a flow that come free at once fit the reserve: 1/share of a size."""
    share, size, what = memory
    for planned, module in zip(plan.modules, modules, strict=True):
        for limit, value in zip(module.limits, planned.limits, strict=True):
            if limit.name == "flow_slots" and value + BURST > reserve:
                raise CapacityError(
                    f"modules.{module.name}.{limit.name}: {value} pieces of a flow may come free "
                    f"at once, {size} keeps {reserve} {what} for that; lower it, or raise "
                    f"{size} to {_power_of_two(share * (value + BURST))}"
                )


def _at_most(what: str, asked: int, room: int) -> None:
    if asked > room:
        raise CapacityError(f"the plan has {asked} {what}, a worker has room for {room}")


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
