# SPDX-License-Identifier: Apache-2.0
"""Real parts for tests, shipped for authors of plug-ins: contracts, a clock, a local Hub."""
