"""Failures that travel: stored cases, replay, and regression tests that stand on their own."""
