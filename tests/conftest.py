# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests: properties are checked with the same examples in every run."""

import signal

from hypothesis import settings

# A shell starts what it runs in the background deaf to Ctrl-C, and Python inherits that. The tests
# of Ctrl-C send it to themselves and to children: they need it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines that build and test at the same time are slow at odd moments: no deadline per example.
settings.register_profile("nfmesh", deadline=None, derandomize=True)
settings.load_profile("nfmesh")
