"""Whole models of vLLM: its own loader and worker manager, on a CPU, with ranks as threads."""
