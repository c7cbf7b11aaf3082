# SPDX-License-Identifier: Apache-2.0
"""Every NF's README says what its class says."""

import re
from pathlib import Path

import pytest

from mesh.registry import Registry

ROOT = Path(__file__).parent.parent
FOLDERS = sorted(path.parent for path in (ROOT / "nfs").glob("*/nf.py"))
HEADINGS = ["Does", "Needs", "Emits", "Limits", "Sources"]


def sections(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"^\*\*(\w+)\.\*\*", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def names(text):
    return set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+|packet|flow|tcp|http|dns)`", text))


def test_every_folder_is_installed_under_its_name():
    assert {folder.name for folder in FOLDERS} <= set(Registry.installed().nf_names())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_readme_names_what_the_class_hears_and_publishes(folder):
    cls = Registry.installed().nf(folder.name)
    found = sections(folder)
    assert list(found) == HEADINGS
    assert names(found["Needs"]) == {e for sub in cls.subscriptions() for e in sub.events}
    assert names(found["Emits"]) == {event.event_name for event in cls.publishes}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_option_is_explained(folder):
    cls = Registry.installed().nf(folder.name)
    assert [option.name for option in cls.options() if not option.doc] == []
