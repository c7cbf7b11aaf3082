# SPDX-License-Identifier: Apache-2.0
"""Every number that users give has a range, and one outside of it is refused by its name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

import mesh
from mesh.bounds import Bounds
from mesh.errors import SpecError
from mesh.kube.models import KINDS
from mesh.native_worker import worker_config
from mesh.nf import NF
from mesh.options import bounds_of, nf_config
from mesh.registry import Registry
from mesh.spec import WorkerSpec, json_schema, parse
from mesh.spec_plan import plan_of
from mesh.uses import NFUse

ROOT = Path(__file__).parent.parent
OFFICE = ROOT / "tests" / "captures" / "office.pcap"
REGISTRY = Registry.installed()
BUILT_IN = [REGISTRY.nf(name) for name in REGISTRY.nf_names()]
NUMBERS = [
    (cls, option.name, bounds, option.default)
    for cls in BUILT_IN
    for option in cls.options()
    if (bounds := bounds_of(option)) is not None
]
LIMITS = [(info.name, limit) for info in REGISTRY.modules() for limit in info.limits.values()]
NEVER = (math.nan, math.inf, -math.inf, 10**30, -(10**30), 1 << 10_000)


def open_ended(schema: Any, place: str = "") -> Iterator[str]:
    """Yields the numbers of a schema that have not both ends."""
    if isinstance(schema, list):
        for i, each in enumerate(schema):
            yield from open_ended(each, f"{place}[{i}]")
    elif isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            ends = {key.removeprefix("exclusive").lower() for key in schema}
            if not {"minimum", "maximum"} <= ends:
                yield place
        for key, each in schema.items():
            yield from open_ended(each, f"{place}.{key}")


def configured(cls: type[NF], name: str, value: object) -> Any:
    """Checks an option, and gives those that must be there some text."""
    needed = {option.name: "x" for option in cls.options() if option.required}
    return nf_config(cls, needed | {name: value}, "nfs[0].config")[name]


def neighbours(bounds: Bounds) -> list[float]:
    """The numbers next to a range."""
    low, high = bounds.low, bounds.high
    assert low is not None
    assert high is not None
    outside = [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)]
    return [*outside, int(low) - 1, int(high) + 1]


def test_every_number_has_both_ends() -> None:
    for cls in BUILT_IN:
        for option in cls.options():
            schema = TypeAdapter(option.type).json_schema()
            assert list(open_ended(schema, f"{cls.name}.{option.name}")) == []
    for model in KINDS.values():
        assert list(open_ended(model.model_json_schema())) == []


def test_every_number_of_spec_and_chart_has_both_ends_but_limits_which_modules_check() -> None:
    values = json.loads((ROOT / "deploy/helm/nfmesh/values.schema.json").read_text())
    for schema in (json_schema(), values):
        found = list(open_ended(schema))
        assert [place for place in found if "ModuleSpec.additionalProperties" not in place] == []


@pytest.mark.parametrize(
    ("cls", "name", "bounds", "default"), NUMBERS, ids=lambda of: getattr(of, "name", of)
)
def test_an_option_takes_its_range_and_nothing_else(
    cls: type[NF], name: str, bounds: Bounds, default: float | None
) -> None:
    for value in (bounds.low, bounds.high, default):
        if value is not None:
            assert configured(cls, name, value) == value
    for value in (*neighbours(bounds), *NEVER):
        if isinstance(value, float) and bounds.low <= value <= bounds.high:  # type: ignore[operator]
            continue  # beyond 2^53 a float's neighbour may be the end itself
        with pytest.raises(SpecError) as caught:
            configured(cls, name, value)
        assert caught.value.path == f"nfs[0].config.{name}"
        assert cls.name in caught.value.text


@given(st.sampled_from(NUMBERS), st.integers() | st.floats())
def test_any_number_is_taken_or_refused_by_the_range_that_is_shown(
    number: tuple[type[NF], str, Bounds, Any], value: float
) -> None:
    cls, name, bounds, _ = number
    is_whole = isinstance(value, int) or value.is_integer()
    option = next(option for option in cls.options() if option.name == name)
    fits = is_whole or TypeAdapter(option.type).json_schema().get("type") == "number"
    if fits and bounds.low <= value <= bounds.high:  # type: ignore[operator]
        assert configured(cls, name, value) == value
        return
    with pytest.raises(SpecError, match=rf"^nfs\[0\]\.config\.{name}: NF '{cls.name}': "):
        configured(cls, name, value)


def test_a_number_within_a_list_is_named_with_its_place() -> None:
    services = [{"address": "192.0.2.1", "port": 80, "backends": [{"address": "10.0.0.1"}]}]
    cls = REGISTRY.nf("load_balancer")
    assert configured(cls, "services", services)[0].backends[0].weight == 1
    services[0]["backends"][0]["weight"] = 2000  # type: ignore[index]
    place = r"nfs\[0\]\.config\.services\[0\]\.backends\[0\]\.weight"
    with pytest.raises(
        SpecError, match=f"{place}: .* 2000 is not within 0..1000; the default is 1"
    ):
        configured(cls, "services", services)


@pytest.mark.parametrize(("module", "limit"), LIMITS, ids=lambda of: getattr(of, "name", of))
def test_a_module_takes_its_limits_and_nothing_else(module: str, limit: Any) -> None:
    def planned(value: object) -> None:
        said = {"nfs": [{"use": "flow_counter"}], "modules": {module: {limit.name: value}}}
        plan_of(parse(said), REGISTRY)

    for value in (limit.min, limit.max, limit.value):
        planned(value)
    for value in (limit.min - 1, limit.max + 1, *NEVER):
        with pytest.raises(SpecError) as caught:
            planned(value)
        assert caught.value.path == f"modules.{module}.{limit.name}"
    with pytest.raises(SpecError, match=rf"within {limit.min}\.\.{limit.max}; the default is"):
        planned(limit.max + 1)


def test_sizes_of_a_worker_are_those_of_the_library_with_its_defaults() -> None:
    row = worker_config({})
    said = {name: field.default for name, field in WorkerSpec.model_fields.items()}
    assert said == {name: getattr(row, name) for name in said}
    worker_config(WorkerSpec(max_flows=4096).sizes)
    assert WorkerSpec(max_flows=4096).sizes == {"max_flows": 4096}


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"worker": {"max_flow": 1}}, "worker: unknown key 'max_flow'; did you mean 'max_flows'?"),
        ({"worker": {"max_flows": 5000}}, "worker.max_flows: 5000 is no power of two; the next"),
        ({"worker": {"n_small": 10**30}}, "worker.n_small: 1" + "0" * 30 + " is not within 256.."),
        ({"worker_cores": [1, 65536]}, "worker_cores[1]: 65536 is not within 0..65535"),
        ({"max_packets": 1 << 10_000}, "max_packets: a number that long is not within 1.."),
        ({"nfs": [{"use": "nat", "cores": 2000}]}, "nfs[0].cores: 2000 is not within 1..1024"),
        ({"nfs": [{"use": "nat", "cores": [-1]}]}, "nfs[0].cores[0]: -1 is not within 0..65535"),
        ({"nfs": [{"use": "nat", "ring": 100}]}, "nfs[0].ring: 100 is no power of two; the next"),
        (
            {"ports": [{"afpacket": {"interface": "a", "block_ms": -1}}]},
            "ports[0].afpacket.block_ms: -1 is not within 0..1000; the default is 0",
        ),
        (
            {"ports": [{"pcap": "a", "impair": {"drop": math.nan}}]},
            "ports[0].impair.drop: nan is not within 0..1; the default is 0",
        ),
    ],
)
def test_a_spec_says_where_a_number_is_wrong_and_what_it_may_be(
    said: dict[str, Any], text: str
) -> None:
    with pytest.raises(SpecError) as caught:
        parse({"nfs": [{"use": "nat"}]} | said)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("options", "place", "text"),
    [
        ({"limit": -1}, "scan.limit", "-1 is not within 1..1000000000"),
        ({"limt": 1}, "scan.limt", "did you mean 'limit'?"),
    ],
)
def test_options_that_python_code_gives_are_checked_alike(options, place, text):
    use = NFUse(REGISTRY.nf("syn_scan"), "scan", options=options)
    with pytest.raises(SpecError) as caught:
        mesh.replay(OFFICE, [use])
    assert caught.value.path == place
    assert text in str(caught.value)
