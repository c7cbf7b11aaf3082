# SPDX-License-Identifier: Apache-2.0
"""What the chart tells the operator: one file, checked here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from mesh.errors import SpecError, system_text

__all__ = ["BudgetSettings", "NFSettings", "OperatorSettings", "StackSettings", "read_settings"]

_Port = Annotated[int, Field(ge=1, le=65535)]
_Id = Annotated[int, Field(ge=1, lt=1 << 31)]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True
    )


class StackSettings(_Model):
    """The stack's pods: how to find them, and what their nodes share with NF pods.

    Attributes:
        selector: labels of stack pods.
        control_port: where they listen.
        host_run_dir: their run folder, on the node; run_dir: in containers.
    """

    selector: dict[str, str]
    control_port: _Port = 7600
    host_run_dir: str
    run_dir: str


class NFSettings(_Model):
    """What all NF pods of the release have in common."""

    health_port: _Port = 9465
    user: _Id = 64001
    group: _Id = 64000
    shared_cpu: str = "500m"
    priority_class_name: str = ""
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    se_linux_options: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []
    node_selector: dict[str, str] = {}
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class BudgetSettings(_Model):
    """PodDisruptionBudgets of functions.

    Attributes:
        version: of their API group, `policy`: which one the cluster serves.
        max_unavailable: pods of a function that may be evicted at a time; 0: there are no budgets.
    """

    version: Literal["v1", "v1beta1"] = "v1"
    max_unavailable: Annotated[int, Field(ge=0)] = 1


class OperatorSettings(_Model):
    """The whole file.

    Attributes:
        release: whose objects are handled: those with its label.
        adopt_unlabelled: also those without such a label.
        control_secret: keys between operator and stacks.
        lease_name: of the Lease by which one of several operators leads.
        poll_s: seconds between two looks at a stack.
    """

    release: Annotated[str, Field(min_length=1, max_length=53)]
    adopt_unlabelled: bool = True
    image: Annotated[str, Field(min_length=1)]
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: list[str] = []
    control_secret: str
    lease_name: str
    stack: StackSettings
    nf: NFSettings = NFSettings()
    budget: BudgetSettings = BudgetSettings()
    log: Literal["debug", "info", "warning", "error"] = "info"
    poll_s: Annotated[float, Field(gt=0, le=60)] = 2.0


def read_settings(path: Path) -> OperatorSettings:
    """Reads the file.

    Raises:
        SpecError: names file and place.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return OperatorSettings.model_validate(data)
    except OSError as error:
        raise SpecError(str(path), system_text(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(str(path), f"no YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"{path}: {place}" if place else str(path), first["msg"]) from error
