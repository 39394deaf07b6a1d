"""Whole models: a small configuration of a model type, and an adapter as PEFT would be asked for it."""
