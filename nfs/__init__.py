# SPDX-License-Identifier: Apache-2.0
"""The network functions that ship with nfmesh: one folder each, found through entry points."""
