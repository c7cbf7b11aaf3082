# SPDX-License-Identifier: Apache-2.0
"""`python -m mesh.cli` is `nfmesh`."""

from mesh.cli import main

main()
