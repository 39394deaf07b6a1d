"""A pytest plugin for a run that finds vLLM not installed, whether it is or not."""

import sys

sys.modules["vllm"] = None  # type: ignore[assignment]
