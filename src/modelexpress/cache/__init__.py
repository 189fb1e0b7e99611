# SPDX-License-Identifier: Apache-2.0
"""Keeping models: one pull for all who ask, access, space, freshness, and the verbs on what is held."""

from modelexpress.cache.access import AccessRules, ServerToken
from modelexpress.cache.flights import Flight
from modelexpress.cache.freshness import FreshnessRules
from modelexpress.cache.ledger import Limits
from modelexpress.cache.model_cache import ModelCache
from modelexpress.cache.opening import CacheOptions, Surroundings, open_cache
from modelexpress.cache.parts import EvictionOptions, MakeSource, PatternRule, PullRules

__all__ = [
    "AccessRules",
    "CacheOptions",
    "EvictionOptions",
    "Flight",
    "FreshnessRules",
    "Limits",
    "MakeSource",
    "ModelCache",
    "PatternRule",
    "PullRules",
    "ServerToken",
    "Surroundings",
    "open_cache",
]
