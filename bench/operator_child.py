# SPDX-License-Identifier: Apache-2.0
"""The operator of the bench `operator`, as a process: answers each line with what it used."""

from __future__ import annotations

import json
import logging
import resource
import sys
from multiprocessing.managers import BaseManager
from typing import Any

from kubernetes.client import Configuration

from mesh.errors import MeshError, ProcessError
from mesh.kube.api import Api
from mesh.kube.operator import Operator
from mesh.kube.settings import OperatorSettings


class Line:
    """A line to a stack that the bench plays."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def status(self) -> Any:
        return self._call("status")

    def put_nf(self, entry: Any, token_sha256: str) -> Any:
        return self._call("put_nf", dict(entry), token_sha256)

    def check_nf(self, entry: Any) -> Any:
        return self._call("check_nf", dict(entry))

    def remove_nf(self, name: str) -> Any:
        return self._call("remove_nf", name)

    def close(self) -> None:
        pass

    def _call(self, name: str, *args: Any) -> Any:
        try:
            return self._node._callmethod(name, args)
        except (OSError, EOFError) as error:
            raise ProcessError(str(error)) from error


class Manager(BaseManager):
    pass


Manager.register("stack_at")


def used() -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", encoding="utf-8") as file:
        pages = int(file.read().split()[1])
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "rss": pages * resource.getpagesize()}


def main() -> None:
    given = json.loads(sys.stdin.readline())
    logging.basicConfig(level="WARNING", stream=sys.stderr)
    configuration = Configuration(host=given["url"])
    if given["token"]:
        configuration.api_key["authorization"] = given["token"]
        configuration.api_key_prefix["authorization"] = "Bearer"
        configuration.ssl_ca_cert = given["authority"]
    manager = Manager(tuple(given["manager"]), authkey=b"bench")
    manager.connect()
    api = Api(configuration, given["namespace"])
    settings = OperatorSettings.model_validate(given["settings"])
    connect = lambda address: Line(manager.stack_at(address))  # type: ignore[attr-defined] # noqa: E731
    operator = Operator(api, settings, connect, "bench")
    operator.start()
    for _ in sys.stdin:
        print(json.dumps({**used(), **operator.statistics()}), flush=True)
    try:
        operator.stop()
    except MeshError as error:
        print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
