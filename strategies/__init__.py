"""The vocabulary of a case, the strategies that draw it, and the renderer of its class."""
