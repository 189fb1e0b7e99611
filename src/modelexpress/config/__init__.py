# SPDX-License-Identifier: Apache-2.0
"""Settings: a file, variables and flags become one checked value."""
