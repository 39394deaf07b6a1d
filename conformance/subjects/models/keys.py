"""Keys of adapter files; apart from what reads the files, as PEFT takes seconds to import."""

from __future__ import annotations

import re

PREFIX = "base_model.model."
KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])(\.weight)?$")


def module_of(key: str) -> str:
    """The module that a tensor is of, empty where it is none of a pair.

    PEFT writes stacked experts of one module as each other's base layer.
    """
    found = KEY.match(key)
    return found["module"].split(".base_layer")[0] if found else ""
