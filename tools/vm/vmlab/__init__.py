# SPDX-License-Identifier: Apache-2.0
"""The host's side of tools/vm.sh: kernels, guests, and what they report."""
