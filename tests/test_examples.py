# SPDX-License-Identifier: Apache-2.0
"""What README and examples/ show runs, and finds what they say."""

import re
from pathlib import Path

import pytest

from mesh import replay

ROOT = Path(__file__).resolve().parents[1]
OFFICE = ROOT / "tests" / "captures" / "office.pcap"
NFS = sorted(path for path in (ROOT / "examples").glob("*.py") if "(NF)" in path.read_text())


@pytest.mark.parametrize("path", NFS, ids=lambda path: path.name)
def test_every_example_nf_runs_over_the_office_capture(path):
    report = replay(OFFICE, [str(path)])
    assert not report.errors
    assert report.nfs[0].results


def test_the_first_example_finds_both_clients_that_were_refused():
    report = replay(OFFICE, [str(ROOT / "examples" / "refused.py")])
    assert report["refused"].results == {"10.20.0.66": 40, "10.20.0.12": 3}


def test_the_readme_shows_the_example_as_it_is():
    [shown, *_] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown.strip() in (ROOT / "examples" / "refused.py").read_text()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
