# SPDX-License-Identifier: Apache-2.0
"""The operator: keeps a release's custom resources and what runs on its nodes equal.

Theory of operation: reflectors keep copies of the objects (`world.py`), agents keep lines to the
stacks (`wiring.py`, `agent.py`); whatever they hear puts names of functions and chains into a
queue, and workers take a name, look at all that is known of it and do what is missing
(`functions.py`). Nothing depends on what exactly happened or in which order: every name is looked
at anyway when this operator begins to lead, and now and then. A failure puts the name back, after
a pause that doubles. While it does not lead, copies are kept, and nothing is written or told.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from mesh.conditions import Trouble
from mesh.errors import ApiError, MeshError
from mesh.kube.agent import Connect
from mesh.kube.api import CHAINS, CONFLICT, DEPLOYMENTS, FUNCTIONS, PODS, Api, Kind, Object
from mesh.kube.chainstatus import Chains
from mesh.kube.functions import Functions, Tools, affected_chains
from mesh.kube.leader import Leader
from mesh.kube.owned import Later
from mesh.kube.recorder import Recorder
from mesh.kube.render import FUNCTION_LABEL, INSTANCE_LABEL
from mesh.kube.settings import OperatorSettings
from mesh.kube.wiring import Stacks
from mesh.kube.workqueue import WorkQueue
from mesh.kube.world import World

__all__ = ["Operator"]

log = logging.getLogger("nfmesh.operator")

RESYNC_S = 600.0
WORKERS = 2
JOIN_S = BUDGETS_S = 5.0
FEW_FAILURES = 2


class Operator:
    """Reconciles one release. `start` it, `stop` it.

    Args:
        api: the server, in the release's namespace.
        settings: of the release.
        connect: makes a line to a stack.
        me: name of this operator, unlike all others'.
    """

    def __init__(self, api: Api, settings: OperatorSettings, connect: Connect, me: str) -> None:
        self.api, self.settings = api, settings
        self.queue = WorkQueue()
        self.world = World(api, settings, self._heard)
        self.stacks = Stacks(connect, self._functions_changed, settings.poll_s)
        self.recorder = Recorder(api, me)
        self.leader = Leader(api, settings.lease_name, me)
        tools = Tools(api, self.world, self.stacks, self.recorder)
        self._functions, self._chains = Functions(tools), Chains(tools)
        self._stopping, self._leads = threading.Event(), threading.Event()
        self._counts: Counter[str] = Counter()
        self._trouble: Trouble | None = None
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"reconcile-{i}", daemon=True)
            for i in range(WORKERS)
        ]
        self._threads.append(threading.Thread(target=self._lead, name="leader", daemon=True))

    def start(self) -> None:
        """Starts all threads."""
        for reflector in self.world.reflectors.values():
            reflector.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends; lets another operator lead. What runs on nodes goes on."""
        self._stopping.set()
        self.queue.close()
        for reflector in self.world.reflectors.values():
            reflector.stop()
        self.stacks.close()
        for thread in self._threads:
            thread.join(JOIN_S)

    @property
    def is_alive(self) -> bool:
        """True while all its threads run."""
        threads = [*self._threads, *(each.thread for each in self.world.reflectors.values())]
        return all(thread.is_alive() for thread in threads)

    @property
    def is_ready(self) -> bool:
        """True when the copies are there and the server answered lately."""
        copies = self.world.needed()
        current = all(each.is_watching or each.failures <= FEW_FAILURES for each in copies)
        return self.world.is_synced and current

    @property
    def leads(self) -> bool:
        """True while this one does the work."""
        return self._leads.is_set() and self.leader.leads

    def statistics(self) -> dict[str, int]:
        """Returns counters and gauges by name."""
        with self._lock:
            found = dict(self._counts)
        found |= {f"queue.{key}": n for key, n in self.queue.statistics().items()}
        for kind, reflector in self.world.reflectors.items():
            found |= {f"{kind.plural}.{key}": n for key, n in reflector.statistics().items()}
        found |= {f"api.{key}": n for key, n in self.api.statistics().items()}
        found["leads"] = int(self.leads)
        found["stacks"] = len(self.stacks.nodes())
        return found

    # ---- what is heard -----------------------------------------------------------------------

    def _heard(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        found = after or before
        if found is None:
            return
        name = found["metadata"]["name"]
        if kind == CHAINS:
            self._chain_changed(name, before, after)
        elif kind == FUNCTIONS:
            self._function_changed(name, before, after)
        elif kind in (DEPLOYMENTS, self.world.budgets.kind):
            self._add_labelled(found)
        elif kind == PODS and not self._add_labelled(found):
            self._stacks_changed()

    def _chain_changed(self, name: str, before: Object | None, after: Object | None) -> None:
        self.queue.add((CHAINS.name, name))
        if _generation(before) != _generation(after):
            self._all_changed()

    def _function_changed(self, name: str, before: Object | None, after: Object | None) -> None:
        self.queue.add((FUNCTIONS.name, name))
        for chain in affected_chains(self.world, name):
            self.queue.add((CHAINS.name, chain))
            if _generation(before) != _generation(after):
                self._all_changed()

    def _add_labelled(self, found: Object) -> bool:
        labels = found["metadata"].get("labels") or {}
        name = labels.get(FUNCTION_LABEL)
        if name is None:
            return False
        if labels.get(INSTANCE_LABEL) == self.settings.release:
            self.queue.add((FUNCTIONS.name, name))
        return True

    def _functions_changed(self, names: Iterable[str]) -> None:
        for name in names:
            self.queue.add((FUNCTIONS.name, name))

    def _all_changed(self) -> None:
        for kind in (CHAINS, FUNCTIONS):
            for found in self.world.store(kind):
                self.queue.add((kind.name, found["metadata"]["name"]))

    def _stacks_changed(self) -> None:
        if not self.leads:
            return
        port = self.settings.stack.control_port
        before = (self.stacks.nodes(), self._trouble)
        self._trouble = self.world.stack_trouble()
        found = {
            pod.node: (pod.uid, _address(pod.ip, port))
            for pod in self.world.stack_pods()
            if not pod.is_leaving
        }
        self.stacks.set_nodes(found)
        if before != (self.stacks.nodes(), self._trouble):
            self._all_changed()

    # ---- threads -----------------------------------------------------------------------------

    def _lead(self) -> None:
        self.leader.run(self._stopping, self._led)

    def _led(self, leads: bool) -> None:
        if leads:
            while not self.world.is_synced and not self._stopping.wait(0.05):
                pass
            self.world.budgets.wait_synced(BUDGETS_S)  # it may never be
            self._leads.set()
            self._stacks_changed()
            self._all_changed()
        else:
            log.warning("another operator leads, or the API server is away")
            self._leads.clear()
            self.stacks.set_nodes({})

    def _work(self) -> None:
        resync = time.monotonic() + RESYNC_S
        while not self._stopping.is_set():
            if not self._leads.wait(0.5):
                continue
            if (key := self.queue.get(1.0)) is not None:
                self._look_at(key)
            if time.monotonic() > resync:
                resync = time.monotonic() + RESYNC_S
                self._all_changed()

    def _look_at(self, key: tuple[str, str]) -> None:
        kind, name = key
        try:
            if not self.leads:
                self.queue.add_after(key, 1.0)
                return
            self._count("reconciles")
            if kind == CHAINS.name:
                self._chains.reconcile(name)
            elif (pause := self._functions.reconcile(name)) is not None:
                self.queue.add_after(key, pause)
            self.queue.forget(key)
        except Later as later:
            self.queue.add_after(key, later.seconds)
        except ApiError as error:
            self._count("conflicts" if error.status == CONFLICT else "failures")
            pause = self.queue.retry(key, error.retry_after_s)
            level = logging.DEBUG if error.status == CONFLICT else logging.WARNING
            log.log(level, "%s %s: %s; again in %.1f s", kind, name, error.text, pause)
        except MeshError as error:
            self._count("failures")
            log.warning("%s %s: %s", kind, name, error)
            self.queue.retry(key)
        except Exception:
            self._count("failures")
            log.exception("%s %s", kind, name)
            self.queue.retry(key)
        finally:
            self.queue.done(key)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def _generation(found: Object | None) -> Mapping[str, object]:
    if found is None:
        return {}
    metadata = found["metadata"]
    keys = ("uid", "generation", "deletionTimestamp", "labels")
    return {key: metadata.get(key) for key in keys}


def _address(ip: str, port: int) -> str:
    host = f"[{ip}]" if ":" in ip else ip
    return f"tcp://{host}:{port}"
