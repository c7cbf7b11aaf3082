# SPDX-License-Identifier: Apache-2.0
"""See README.md; the network functions are in `nfs.load_balancer.nf`."""
