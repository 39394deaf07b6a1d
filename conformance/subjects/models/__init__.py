"""Whole models: their checkpoints and adapters, made by transformers and PEFT."""
