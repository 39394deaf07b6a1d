"""The booleans of each model type's configuration that can be turned over: found by `benchmarks.model_types`."""

from __future__ import annotations

from collections.abc import Mapping

SWITCHES: Mapping[str, tuple[str, ...]] = {}
