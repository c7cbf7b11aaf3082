# SPDX-License-Identifier: Apache-2.0
"""How long tests wait for facts; here and nowhere else, so that slow machines have one number.

What is waited for comes in parts of a second on a machine that has time. `NFMESH_PATIENCE` takes
another number of seconds, for one that has none.
"""

import os
import time

PATIENCE_S = float(os.environ.get("NFMESH_PATIENCE", "120"))


def until(fact, what="what the test waits for", patience=PATIENCE_S, nap=0.01):
    """Waits until something is true, and returns it; fails saying for what it waited."""
    end = time.monotonic() + patience
    while not (found := fact()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(nap)
    return found
