# SPDX-License-Identifier: Apache-2.0
"""What a person can see of a running process: logs and metrics."""
