"""Which of the scripts in docs/findings shows a failure with nothing but vLLM, told by what the failure says."""

from __future__ import annotations

import re

_FOLDER = "../../findings"
# (anomaly, what its message begins with or has in it, scripts)
_SHOWN_BY = (
    ("not-wrapped", r"^a (column|row|qkv) layer was left unwrapped, a subclass", ("01_subclass_left_unwrapped",)),
    (
        "not-wrapped",
        r"^a merged_column layer was left unwrapped, a subclass",
        ("02_merged_subclass_unwrapped_under_tp", "04_three_outputs_fully_sharded"),
    ),
    ("raised", r"AttributeError: 'NoneType' object has no attribute 'device'", ("18_weight_is_none",)),
    ("order-dependent", r"^claimed by ", ("19_two_classes_claim",)),
    ("weight-stolen", r"^rank \d+: ", ("20_sibling_reads_base_weight",)),
    ("hidden-attribute", r"^layer\.output_size=", ("21_geometry_changed_by_wrapping",)),
    ("hidden-attribute", r"^found None, but should be the base layer's ", ("24_silent_wrapper_ends_search",)),
    ("raised", r"AttributeError: 'BareWrapper\(", ("24_silent_wrapper_ends_search",)),
)


def shown_by(anomaly: str, message: str) -> str:
    """Links to the scripts, as the end of a line; empty where no script is known to show it."""
    found = [
        f"[{script[:2]}]({_FOLDER}/{script}.py)"
        for kind, said, scripts in _SHOWN_BY
        if kind == anomaly and re.search(said, message)
        for script in scripts
    ]
    return f" (shown by {', '.join(found)})" if found else ""
