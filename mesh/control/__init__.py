# SPDX-License-Identifier: Apache-2.0
"""The control plane: messages, the client of every process, the controller."""
