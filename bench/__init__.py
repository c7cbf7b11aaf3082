# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: workloads in memory, our stack and others side by side, in one run."""
