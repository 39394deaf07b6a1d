"""The linear families: what tensor parallelism does to a layer's weight."""

from __future__ import annotations

import enum


class Family(enum.Enum):
    """The five linear families of vLLM, by what tensor parallelism does to their weight."""

    REPLICATED = "replicated"
    COLUMN = "column"
    MERGED_COLUMN = "merged_column"
    QKV = "qkv"
    ROW = "row"

    # Members are singletons: their identity is a hash, and one that costs no call of Python.
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"Family.{self.name}"

    @property
    def shards_output(self) -> bool:
        """Whether each rank owns a part of the output rows."""
        return self in (Family.COLUMN, Family.MERGED_COLUMN, Family.QKV)

    @property
    def packed(self) -> bool:
        """Whether several checkpoint modules are packed into the one layer."""
        return self in (Family.MERGED_COLUMN, Family.QKV)
