"""Which values of which dimensions, and which pairs of them, the default profile draws."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import combinations

from benchmarks.power.hunting import suite_tests
from benchmarks.power.sight import drawn
from strategies.cases import Case, Quantization


def dimensions(case: Case) -> dict[str, str]:
    """Where a case lies on every dimension that real bugs say must vary."""
    layer, subclass = case.layer, case.subclass
    return {
        "family": layer.family.value,
        "outputs": _outputs(case),
        "packed list": "none" if not case.packed else "per output" if set(case.packed) == {1} else "shorter",
        "parts": _parts(case),
        "ranks": str(case.tp_size) if case.tp_size <= 4 else "8 to 32",
        "disable_tp": str(layer.disable_tp and case.tp_size > 1),
        "KV heads": _kv_heads(case),
        "sharding": "full" if case.fully_sharded else "plain",
        "depth": "0" if not subclass.depth else "1" if subclass.depth == 1 else "2 to 5",
        "mixins": subclass.mixins.value,
        "made": "dynamically" if subclass.dynamic else "statically",
        "constructor": subclass.constructor.value,
        "loader": subclass.loader.value,
        "forward": subclass.forward.value,
        "bias": f"{'bias' if layer.bias else 'none'}{', skipped' if layer.skip_bias_add else ''}",
        "adapter's rank": _rank(case),
        "batch": _batch(case),
        "slots": _slots(case),
        "layout": case.layout.value,
        "dtype": case.dtype.value,
        "regime": case.regime.value,
        "base": "dense" if case.quantization is Quantization.NONE else "quantized",
        "nesting": "none" if not case.nesting else "1" if len(case.nesting) == 1 else "2 to 6",
    }


def _outputs(case: Case) -> str:
    sizes = case.layer.output_sizes
    if len(sizes) == 1:
        return "one"
    return f"{'two' if len(sizes) == 2 else 'more'}, {'equal' if len(set(sizes)) == 1 else 'unequal'}"


def _parts(case: Case) -> str:
    if any(one.fused for one in case.adapters):
        return "fused"
    return "absent" if any(not all(one.present) for one in case.adapters) else "all"


def _kv_heads(case: Case) -> str:
    if case.layer.heads is None:
        return "no heads"
    ranks, heads = case.layer_tp_size, case.layer.heads.key_value
    return "as many or more" if heads >= ranks else "one" if heads == 1 else "fewer than ranks"


def _rank(case: Case) -> str:
    if not case.adapters:
        return "none"
    ranks = {one.rank for one in case.adapters}
    if ranks == {1}:
        return "1"
    if case.max_rank in ranks:
        return "the largest"
    return "cut unevenly" if any(rank % case.layer_tp_size for rank in ranks) else "below"


def _batch(case: Case) -> str:
    served = set(case.tokens)
    if not served:
        return "empty"
    if served == {-1}:
        return "base only"
    several = "several" if len(served - {-1}) > 1 else "one"
    return f"{several}{' and base' if -1 in served else ''}{', one token' if len(case.tokens) == 1 else ''}"


def _slots(case: Case) -> str:
    used = {one.slot for one in case.adapters}
    ends = [name for name, slot in (("first", 0), ("last", case.max_loras - 1)) if slot in used]
    return " and ".join(ends) or "middle"


@cache
def drawn_cases(seed: int = 0) -> tuple[Case, ...]:
    """Every case that the suite draws at the default profile."""
    return tuple(case for test in suite_tests() for case in drawn(test, seed) if isinstance(case, Case))


def pairs_of(case: Case) -> list[tuple[str, str, str, str]]:
    """Each pair of dimensions with the case's value on both."""
    place = dimensions(case)
    return [(one, place[one], other, place[other]) for one, other in combinations(place, 2)]


def coverage(seed: int = 0) -> dict[str, object]:
    """How many values of each dimension were drawn, and for each pair of dimensions how many pairs of values."""
    cases = drawn_cases(seed)
    values: dict[str, Counter[str]] = {}
    met: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for case in cases:
        for name, value in dimensions(case).items():
            values.setdefault(name, Counter())[value] += 1
        for one, value, other, second in pairs_of(case):
            met.setdefault((one, other), set()).add((value, second))
    return {
        "cases": len(cases),
        "values": {name: dict(counts.most_common()) for name, counts in values.items()},
        "pairs": {f"{one} × {other}": len(found) for (one, other), found in met.items()},
        "possible": {
            f"{one} × {other}": len(values[one]) * len(values[other]) for one, other in combinations(values, 2)
        },
        "missing": {
            f"{one} × {other}": sorted(f"{a} × {b}" for a in values[one] for b in values[other] if (a, b) not in found)
            for (one, other), found in met.items()
            if len(found) < len(values[one]) * len(values[other])
        },
    }
