"""What making a small model of a type needs beyond `configs.small_config`: data, one entry for each type."""

from __future__ import annotations

# Architectures of vLLM that transformers has under another name.
BUILT_AS = {
    "PhiMoEForCausalLM": "PhimoeForCausalLM",
}

# Architectures that stand beside no checkpoint of their own, and why.
NOT_BUILDABLE = {
    "NanbeigeForCausalLM": "transformers has no implementation of it, which vLLM would ask for",
}

# For a model type or an architecture: values by dotted name, put into the type's default configuration before it is
# made small, or into the small one.
RECIPES: dict[str, dict[str, dict[str, object]]] = {}
