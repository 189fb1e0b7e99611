# SPDX-License-Identifier: Apache-2.0
"""Nouns, errors and protocols that every package speaks; standard library only."""
