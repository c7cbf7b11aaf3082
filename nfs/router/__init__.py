# SPDX-License-Identifier: Apache-2.0
"""See README.md; the network function is `nfs.router.nf:Router`."""
