# SPDX-License-Identifier: Apache-2.0
"""Where network functions run: one interface, on this host or in a cluster."""
