# SPDX-License-Identifier: Apache-2.0
"""What the benches beside the peers share: testbeds, contestants, checks, rounds and reports."""
