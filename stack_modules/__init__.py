# SPDX-License-Identifier: Apache-2.0
"""The stack modules that ship with nfmesh: one folder each, found through entry points."""
