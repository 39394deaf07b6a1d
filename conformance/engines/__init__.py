"""Tensor-parallel engines: how the ranks of a case run."""
