# SPDX-License-Identifier: Apache-2.0
"""One of several operators leads: who holds a Lease.

Theory of operation: the holder writes the time into the Lease every RENEW_S. Another may take it
when it has not changed for LEASE_S by the other's own clock, so that clocks need not agree. Both
write the version that they have read: the server refuses the second one. Who could not renew for
GIVE_UP_S, less than LEASE_S, stops leading before another begins.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from mesh.errors import ApiError
from mesh.kube.api import CONFLICT, LEASES, Api, Object

__all__ = ["Leader"]

log = logging.getLogger("nfmesh.operator")
SEIZE_TRIES = 5
LEASE_S, GIVE_UP_S, RENEW_S, RETRY_S = 30.0, 20.0, 10.0, 2.0


class Leader:
    """Holds a Lease, or waits for it.

    Args:
        api: the server.
        name: of the Lease; me: who asks, unlike all others.
        clock: monotonic seconds.
    """

    def __init__(
        self, api: Api, name: str, me: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.me = name, me
        self._api, self._clock = api, clock
        self._lease: Object | None = None
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None

    @property
    def leads(self) -> bool:
        """True while nobody else can."""
        return self._renewed_at is not None and self._clock() - self._renewed_at < GIVE_UP_S

    def step(self) -> float:
        """Renews or asks for the Lease once; returns the seconds until the next time.

        Raises:
            ApiError: the server did not answer or refused.
        """
        began = self._clock()
        lease = self._api.find(LEASES, self.name)
        if lease is None:
            self._took(self._api.create(LEASES, self._new()), began)
            return RENEW_S
        holder = lease.get("spec", {}).get("holderIdentity") or ""
        if holder not in (self.me, "") and not self._is_stale(lease):
            self._renewed_at = None
            return RETRY_S
        self._take(lease, holder, began)
        return RENEW_S

    def seize(self) -> None:
        """Takes the Lease from whoever has it, who stops at its next step.

        Raises:
            ApiError: also when its holder was faster every time.
        """
        for left in reversed(range(SEIZE_TRIES)):
            try:
                self._take_from_anybody()
                return
            except ApiError as error:
                if error.status != CONFLICT or left == 0:
                    raise

    def _take_from_anybody(self) -> None:
        began = self._clock()
        lease = self._api.find(LEASES, self.name)
        if lease is None:
            self._took(self._api.create(LEASES, self._new()), began)
            return
        spec = {**(lease.get("spec") or {}), "holderIdentity": self.me, "renewTime": _now()}
        self._took(self._api.replace(LEASES, {**lease, "spec": spec}), began)

    def release(self) -> None:
        """Lets another lead at once."""
        if not self.leads or self._lease is None:
            return
        self._renewed_at = None
        spec = {**self._lease["spec"], "holderIdentity": ""}
        try:
            self._api.replace(LEASES, {**self._lease, "spec": spec})
        except ApiError as error:
            log.info("the lease was not released: %s", error.text)

    def _take(self, lease: Object, holder: str, began: float) -> None:
        spec = dict(lease.get("spec") or {})
        spec["renewTime"] = _now()
        if holder != self.me:
            spec |= {"holderIdentity": self.me, "acquireTime": spec["renewTime"]}
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        try:
            self._took(self._api.replace(LEASES, {**lease, "spec": spec}), began)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            self._renewed_at = None

    def _is_stale(self, lease: Object) -> bool:
        spec = lease.get("spec", {})
        state = (str(spec.get("holderIdentity")), str(spec.get("renewTime")))
        if state != self._seen:
            self._seen, self._seen_at = state, self._clock()
        limit = float(spec.get("leaseDurationSeconds") or LEASE_S)
        return self._clock() - self._seen_at > limit

    def _took(self, lease: Object, began: float) -> None:
        if self._renewed_at is None:
            log.info("%s leads", self.me)
        self._lease, self._renewed_at = lease, began

    def _new(self) -> Object:
        now = _now()
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.name,
            "metadata": {"name": self.name},
            "spec": {
                "holderIdentity": self.me,
                "leaseDurationSeconds": int(LEASE_S),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }

    def run(self, stopping: threading.Event, changed: Callable[[bool], None]) -> None:
        """Steps until `stopping`; calls `changed` when it begins to lead and when it ends."""
        led = False
        while not stopping.is_set():
            try:
                pause = self.step()
            except ApiError as error:
                log.warning("lease %s: %s", self.name, error.text)
                pause = RETRY_S
            if self.leads != led:
                led = self.leads
                changed(led)
            stopping.wait(pause)
        if led:
            changed(False)
        self.release()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
