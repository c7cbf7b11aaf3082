# SPDX-License-Identifier: Apache-2.0
"""What it costs to find a packet's rule, in instructions: hardly more for very many rules."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "bench/nfm_firewall.c",
    "bench/measured_options.c",
    "nfs/firewall/classify.c",
    "nfs/firewall/order.c",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    for needed in ("cc", "valgrind"):
        if shutil.which(needed) is None:
            pytest.skip(f"no {needed}")
    target = tmp_path_factory.mktemp("cost") / "nfm-firewall"
    sources = [str(ROOT / source) for source in SOURCES]
    line = ["cc", "-O3", "-g1", "-DNDEBUG", "-std=gnu11", f"-I{ROOT}/nfs/firewall", *sources]
    subprocess.run([*line, "-o", str(target)], check=True)
    return target


def per_packet(program, tmp_path, rules):
    """Instructions of one more pass, so that making the table cancels out."""
    totals, packets = [], 0
    for passes in (1, 2):
        out = tmp_path / "out"
        line = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", str(program)]
        done = subprocess.run(
            [*line, f"--rules={rules}", f"--passes={passes}"],
            capture_output=True,
            text=True,
            check=True,
        )
        packets = json.loads(done.stdout)["packets"]
        totals.append(int(re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.M)[1]))
    return (totals[1] - totals[0]) / packets


def test_ten_thousand_rules_cost_little_more_than_ten(program, tmp_path):
    few, many = (per_packet(program, tmp_path, rules) for rules in (10, 10_000))
    print(f"{few:.0f} and {many:.0f} instructions")
    assert few < 800
    assert many < 2.5 * few
