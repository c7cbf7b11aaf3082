# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests: properties are checked with the same examples in every run."""

from hypothesis import settings

# Machines that build and test at the same time are slow at odd moments: no deadline per example.
settings.register_profile("nfmesh", deadline=None, derandomize=True)
settings.load_profile("nfmesh")
