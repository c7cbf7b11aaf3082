# SPDX-License-Identifier: Apache-2.0
"""Kubernetes: the custom resources, what they mean on one host, and the operator."""
