# SPDX-License-Identifier: Apache-2.0
"""The custom resources: what the models take, what the definitions say, what a chain means."""

from pathlib import Path

import pytest
import yaml

from mesh.errors import SpecError
from mesh.kube.chains import Place, arrange
from mesh.kube.crd import as_yaml, crds
from mesh.kube.manifests import Manifests, entry_of, read_manifests
from mesh.kube.models import NetworkFunctionSpec, ServiceChainSpec, parse_object
from mesh.spec import NFSpec, parse

FOLDER = Path(__file__).parents[1] / "deploy/helm/nfmesh/crds"


def function(**spec):
    return {
        "apiVersion": "nfmesh.io/v1alpha1",
        "kind": "NetworkFunction",
        "metadata": {"name": "one"},
        "spec": {"use": "syn_scan", **spec},
    }


def nf(**spec):
    return NetworkFunctionSpec.model_validate({"use": "firewall", **spec})


def chain(*functions, where=None):
    return ServiceChainSpec.model_validate(
        {"functions": list(functions), "selector": {"where": where}}
    )


@pytest.mark.parametrize("plural", ["networkfunctions", "servicechains"])
def test_committed_definitions_are_the_generated_ones(plural):
    text = (FOLDER / f"{plural}.yaml").read_text()
    assert text == as_yaml(crds()[plural]), "run: python -m mesh.kube.crd"
    assert yaml.safe_load(text)["metadata"]["name"] == f"{plural}.nfmesh.io"


def walk(schema, path="spec"):
    yield path, schema
    for key, value in schema.get("properties", {}).items():
        yield from walk(value, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from walk(schema[key], f"{path}.{key}")


@pytest.mark.parametrize("plural", ["networkfunctions", "servicechains"])
def test_schemas_are_structural(plural):
    version = crds()[plural]["spec"]["versions"][0]
    for path, schema in walk(version["schema"]["openAPIV3Schema"], ""):
        assert schema.get("type"), f"{path} has no type"
        for word in ("$ref", "anyOf", "oneOf", "title", "$defs", "const"):
            assert word not in schema, f"{path} has {word}"
        assert not ("properties" in schema and "additionalProperties" in schema), path


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"cores": 1.5}, r"spec.cores: "),
        ({"cores": -1}, r"spec.cores: "),
        ({"memory": "12"}, r"spec.memory: "),
        ({"hugepages": {"4Mi": "8Mi"}}, r"spec.hugepages: unknown key '4Mi'"),
        ({"wher": "tcp"}, r"spec: unknown key 'wher'; did you mean 'where'\?"),
        ({"ring": 1000}, r"spec.ring: 1000 is no power of two; the next one is 1024"),
        ({"fail": "ajar"}, r"spec.fail: "),
        ({"stage": 256}, r"spec.stage: "),
        ({"use": "rm -rf"}, r"spec.use: "),
        (
            {"subscriptions": {"a": {"event": []}}},
            r"spec.subscriptions.a: unknown key 'event'; did you mean 'events'\?",
        ),
    ],
)
def test_wrong_values_are_refused_with_their_place(spec, error):
    with pytest.raises(SpecError, match=error):
        parse_object(function(**spec))


def test_entry_is_what_a_spec_takes():
    spec = nf(
        config={"rules": []},
        subscriptions={"packets": {"where": "udp"}},
        mode="inline",
        fail="open",
        deadlineMs=5,
        where="tcp",
        ring=128,
        cores=2,
        replicas=3,
    )
    entry = entry_of("edge", spec, Place(3, "port 443"))
    assert entry == {
        "name": "edge",
        "use": "firewall",
        "config": {"rules": []},
        "subscriptions": {"packets": {"where": "udp"}},
        "mode": "inline",
        "fail": "open",
        "deadline_ms": 5,
        "where": "(tcp) and (port 443)",
        "stage": 3,
        "ring": 128,
        "poll": "adaptive",
        "domain": "default",
    }
    assert parse({"nfs": [entry]}).nfs[0].stage == 3


def test_whatever_a_spec_says_of_an_nf_a_function_can_say():
    elsewhere = {"name", "restart", "place", "token", "declares"}  # Kubernetes', the operator's
    assert set(NFSpec.model_fields) - elsewhere <= set(NetworkFunctionSpec.model_fields)


def test_chains_are_one_order():
    functions = {name: nf() for name in ("a", "b", "c", "d", "e")}
    found = arrange(
        [("web", chain("a", "b", "d", where="tcp port 80")), ("dns", chain("c", "d", where="udp"))],
        functions,
    )
    assert not found.problems
    assert "e" not in found.places
    stages = {name: place.stage for name, place in found.places.items()}
    assert stages["a"] < stages["b"] < stages["d"]
    assert stages["c"] < stages["d"]
    assert len(set(stages.values())) == 4
    assert found.places["d"].where == "(tcp port 80) or (udp)"
    assert found.places["a"].where == "tcp port 80"


def test_chain_without_selector_takes_all_traffic():
    found = arrange([("x", chain("a", where="tcp")), ("y", chain("a"))], {"a": nf()})
    assert found.places["a"] == Place(0, None)


@pytest.mark.parametrize(
    ("chains", "reason"),
    [
        ([("x", chain("a", "b")), ("y", chain("b", "a"))], {"y": "Cycle"}),
        ([("x", chain("a", "b", "c")), ("y", chain("c", "a"))], {"y": "Cycle"}),
        ([("x", chain("a", "a"))], {"x": "Cycle"}),
        ([("x", chain("a", "nobody", "b")), ("y", chain("b", "a"))],
         {"x": "UnknownFunction", "y": "Cycle"}),
        ([("x", chain("fixed"))], {"x": "StageGiven"}),
        ([("x", chain("beside"))], {"x": "NotInline"}),
    ],
)  # fmt: skip
def test_impossible_chains_say_why_and_leave_the_others(chains, reason):
    functions = {
        "a": nf(),
        "b": nf(),
        "c": nf(),
        "fixed": nf(stage=1),
        "beside": nf(mode="observe"),
    }
    found = arrange(chains, functions)
    assert {name: problem.reason for name, problem in found.problems.items()} == reason
    if "x" not in reason or reason["x"] == "UnknownFunction":
        assert found.places["a"].stage < found.places["b"].stage


def test_file_of_manifests_on_one_host(tmp_path):
    path = tmp_path / "nf.yaml"
    web = {**function(), "kind": "ServiceChain", "spec": {"functions": ["one"]}}
    path.write_text(yaml.safe_dump_all([function(cores=2), web]))
    found = read_manifests(path)
    assert found is not None
    assert found.functions["one"].cores == 2
    assert [entry["stage"] for entry in found.entries()] == [0]

    path.write_text("nfs:\n- use: syn_scan\n")
    assert read_manifests(path) is None


def test_wrong_manifests_name_file_and_place(tmp_path):
    path = tmp_path / "nf.yaml"
    path.write_text(yaml.safe_dump_all([function(), function()]))
    with pytest.raises(SpecError, match=r"nf.yaml, document 2.metadata.name: there are two"):
        read_manifests(path)
    path.write_text(yaml.safe_dump(function(cores="many")))
    with pytest.raises(SpecError, match=r"nf.yaml.spec.cores: "):
        read_manifests(path)
    circle = {**function(), "kind": "ServiceChain", "spec": {"functions": ["one", "one"]}}
    with pytest.raises(SpecError, match=r"ServiceChain one: 'one' comes twice"):
        Manifests([("x", function()), ("x", circle)]).entries()
