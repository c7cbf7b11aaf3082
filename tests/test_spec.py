# SPDX-License-Identifier: Apache-2.0
"""Spec files: what is accepted, and how errors name their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.batch import EventBatch
from mesh.child import Patience
from mesh.errors import NFMissing, PlanError, SpecError
from mesh.module import ModuleInfo
from mesh.nf import NF, on
from mesh.options import nf_config
from mesh.registry import Registry
from mesh.spec import json_schema, load, parse
from mesh.spec_plan import plan_of, uses_of


class Sample(NF):
    """Has options and one subscription."""

    def __init__(self, size: int, share: float = 0.5, words: list[str] | None = None) -> None:
        self.size = size

    @on("flow.end")
    def ended(self, batch: EventBatch) -> None: ...


class Pair(NF):
    @on("flow.end")
    def ended(self, batch: EventBatch) -> None: ...

    @on("packet")
    def seen(self, batch: EventBatch) -> None: ...


REGISTRY = Registry(
    {"sample": lambda: Sample, "pair": lambda: Pair},
    {name: lambda name=name: ModuleInfo.builtin(name) for name in ("tcp_track", "udp")},
)
TEXT = """
nfs:
  - use: sample
    name: first
    config: {size: 3, share: 1}
    where: proto == 6
  - use: pair
    subscriptions:
      seen: {where: port 80}
events:
  lost: {event: flow.end, where: reason == eof}
worker: {max_flows: 4096}
checksums: verify
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text)
    return path


def test_a_whole_spec(tmp_path: Path):
    spec = load(write(tmp_path, TEXT))
    first, second = uses_of(spec, REGISTRY)
    assert (first.name, first.options, first.path) == ("first", {"size": 3, "share": 1.0}, "nfs[0]")
    assert second.overrides["seen"].where == "port 80"
    made = plan_of(spec, REGISTRY)
    assert [nf.name for nf in made.nfs] == ["first", "pair"]
    assert made.catalogue["lost"].base == "flow.end"


def test_json_is_accepted(tmp_path: Path):
    assert load(write(tmp_path, '{"nfs": [{"use": "sample"}]}')).nfs[0].use == "sample"


def test_events_of_an_nf_with_one_subscription():
    [use] = uses_of(
        parse({"nfs": [{"use": "sample", "config": {"size": 1}, "events": ["flow.start"]}]}),
        REGISTRY,
    )
    assert use.overrides["ended"].events == ("flow.start",)


def test_an_error_names_file_and_place(tmp_path):
    path = tmp_path / "mesh.yaml"
    path.write_text("nfs: [{use: http_log, were: x}]")
    with pytest.raises(SpecError, match=r"mesh\.yaml: nfs\[0\]: unknown key 'were'"):
        load(path)
    path.write_text("")
    with pytest.raises(SpecError, match=r"mesh\.yaml: a spec is a mapping"):
        load(path)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], "a spec is a mapping with the key 'nfs'"),
        ({}, "nfs: name at least one NF"),
        ({"nfs": []}, "nfs: name at least one NF, or ports that frames leave by"),
        ({"nfs": [{"use": "a"}, {"uses": "a"}]}, "nfs[1].use: field required"),
        (
            {"nfs": [{"use": "a", "were": "x"}]},
            "nfs[0]: unknown key 'were'; did you mean 'where'?",
        ),
        ({"nfs": [{"use": "a"}], "event": {}}, "unknown key 'event'; did you mean 'events'?"),
        (
            {"nfs": [{"use": "a"}], "events": {"x": {"event": "tcp", "filter": "y"}}},
            "events.x.where: field required",
        ),
        ({"nfs": [{"use": "a", "stage": -1}]}, "nfs[0].stage: -1 is not within 0..255"),
        ({"nfs": [{"use": "a", "mode": "inlin"}]}, "nfs[0].mode: input should be 'observe'"),
        (
            {"nfs": [{"use": "a"}], "worker": {"max_flows": -1}},
            "worker.max_flows: -1 is not within",
        ),
        (
            {"nfs": [{"use": "a"}], "patience": {"run": 0}},
            "patience.run: 0 is not within 0.1..3600; the default is 10",
        ),
        (
            {"nfs": [{"use": "a"}], "patience": {"strat": 9}},
            "patience: unknown key 'strat'; did you mean 'start'?",
        ),
        ({"nfs": [{"use": "a"}], "events": {"a b": {"event": "x", "where": "y"}}}, "events.a b"),
    ],
)
def test_errors_name_their_place(data: object, text: str):
    with pytest.raises(SpecError) as caught:
        parse(data)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"size": 1, "shar": 2}, "nfs[0].config.shar: NF 'sample' has no option 'shar'; did you"),
        ({"size": "many"}, "nfs[0].config.size: NF 'sample': input should be a valid integer"),
        ({"share": 0.1}, "nfs[0].config.size: NF 'sample' needs this option"),
        ({"size": 1, "words": [1]}, "nfs[0].config.words[0]: "),
        ({"size": 1, "words": '["a", '}, "nfs[0].config.words: "),
        ({"size": 1, "words": "a"}, "nfs[0].config.words: "),
    ],
)
def test_options_are_checked_against_the_signature(config: dict[str, object], text: str):
    with pytest.raises(SpecError) as caught:
        nf_config(Sample, config, "nfs[0].config")
    assert text in str(caught.value)


def test_a_list_may_be_written_as_json():
    options = nf_config(Sample, {"size": "7", "words": '["a", "b"]'}, "nfs[0].config")
    assert options == {"size": 7, "words": ["a", "b"]}


def test_events_of_an_nf_with_several_subscriptions_is_ambiguous():
    spec = parse({"nfs": [{"use": "pair", "events": ["tcp"]}]})
    with pytest.raises(SpecError, match=r"nfs\[0\]\.events: .*\(ended, seen\)"):
        uses_of(spec, REGISTRY)


def test_an_unknown_nf_is_named_with_its_place():
    with pytest.raises(NFMissing, match=r"nfs\[0\]\.use: no NF 'sampel'.*'sample'"):
        uses_of(parse({"nfs": [{"use": "sampel"}]}), REGISTRY)


def test_a_filter_of_the_spec_is_checked_against_the_events():
    spec = parse({"nfs": [{"use": "pair", "where": "prot == 6"}]})
    with pytest.raises(PlanError, match=r"^nfs\[0\]\.where: .*'prot'.*did you mean 'proto'"):
        plan_of(spec, REGISTRY)


def test_a_pcap_expression_is_read_by_libpcap_before_anything_runs():
    spec = parse({"nfs": [{"use": "pair", "where": "host 1.2.3.4.5"}]})
    with pytest.raises(PlanError, match=r"^nfs\[0\]\.where: "):
        plan_of(spec, REGISTRY)


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(SpecError, match="No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="no YAML"):
        load(write(tmp_path, "nfs: ["))
    with pytest.raises(SpecError, match=r"no YAML: Exceeds the limit .* digits"):
        load(write(tmp_path, f"max_packets: {'9' * 5000}"))
    with pytest.raises(SpecError, match="longer than"):
        load(write(tmp_path, "x" * ((1 << 20) + 1)))


def test_the_schema_describes_every_key():
    schema = json_schema()
    assert set(schema["properties"]) >= {"nfs", "events", "modules", "worker", "ports", "patience"}
    for name, said in {"": schema, **schema["$defs"]}.items():
        model = said["anyOf"][1] if "anyOf" in said else said  # a text stands for the first key
        if name == "ModuleSpec":  # its other keys are the limits of a module
            assert model["additionalProperties"]["anyOf"]
        else:
            assert model["additionalProperties"] is False
        for key, value in model["properties"].items():
            assert value.get("description"), f"{model['title']}.{key}"


def test_patience_has_the_values_of_the_supervisor():
    spec = parse({"nfs": [{"use": "a"}], "patience": {"run": 2.5}})
    assert Patience.of(spec.patience) == Patience(run_s=2.5)
    assert Patience.of(parse({"nfs": [{"use": "a"}]}).patience) == Patience()
