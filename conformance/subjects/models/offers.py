"""What PEFT can target in a model, learned from the model itself on the meta device, which allocates nothing."""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from torch import nn

from conformance.subjects.models.decoders import decoder_of, text_config
from strategies.models.adapters import ANY_NUMBER, SAVED_HEADS, Targetable

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NUMBER = re.compile(r"\.(\d+)(?=\.)")
_WHOLE = (*SAVED_HEADS, "lm_head", "embed_tokens", "norm")


@cache
def _modules() -> tuple[type[nn.Module], ...]:
    return nn.Linear, nn.Embedding, importlib.import_module("transformers.pytorch_utils").Conv1D


def targetable(model: nn.Module) -> Targetable:
    """Ends of names: the last part, as users write them, and where that means several places also longer ones."""
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, _modules())}
    others = [name for name, one in model.named_modules() if not isinstance(one, (*_modules(), *_CONVOLUTIONS))]
    modules = [name for name in kinds if not _left_out_by_peft(model, name)]
    modules = sorted(modules, key=lambda name: issubclass(kinds[name], nn.Embedding))  # the plainest are linear ones
    embeddings = [name for name in modules if issubclass(kinds[name], nn.Embedding)]
    parameters = list(_bare_parameters(model))
    last = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    layers = [int(found.group(1)) for name in modules if (found := _NUMBER.search(name))]
    owners = [name for name in parameters if any(one.startswith(f"{_owner(name)}.") for one in modules)]
    return Targetable(
        modules=_ends(modules, least=1, others=others),
        parameters=_ends(parameters, least=2),  # of a module and its parameter: `weight` alone would be any
        around=_ends(owners, least=2),
        layers=max(layers, default=0) + 1,
        saved=tuple(name for name in _WHOLE if name in last),
        tied=tuple(sorted(_ends(embeddings, least=1))) if _ties(model) else (),
        alone=_of_language_model(model, modules, others, embeddings),
    )


def _of_language_model(
    model: nn.Module, modules: Sequence[str], others: Sequence[str], embeddings: Sequence[str]
) -> tuple[str, ...]:
    decoder = "" if text_config(model) is None else decoder_of(model)
    inside = [name for name in modules if name.startswith(f"{decoder}.") and name not in embeddings]
    outside = [name for name in modules if name not in inside]
    return _ends(inside, least=1, others=(*others, *outside)) if decoder else ()


def _ties(model: Any) -> bool:
    """Whether one weight is both ends', whatever the configuration and those inside of it say."""
    try:
        ends = model.get_input_embeddings(), model.get_output_embeddings()
    except NotImplementedError:  # a model of several models has no ends of its own
        return False
    return None not in ends and getattr(ends[0], "weight", None) is getattr(ends[1], "weight", ends)


def _left_out_by_peft(model: Any, name: str) -> bool:
    """Whether PEFT refuses every adapter that names such a module, as it does some of state spaces."""
    from peft import LoraConfig

    check = importlib.import_module("peft.tuners.tuners_utils")._check_lora_target_modules_mamba
    try:
        check(LoraConfig(), model, name.rpartition(".")[2])
    except ValueError:
        return True
    return False


def _bare_parameters(model: nn.Module) -> Iterator[str]:
    """Parameters that are no module's weight to PEFT: stacked experts, and routers that are parameters."""
    for name, module in model.named_modules():
        if isinstance(module, (*_modules(), *_CONVOLUTIONS)):
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim in (2, 3) and parameter.is_floating_point() and "bias" not in own:
                yield f"{name}.{own}"


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _ends(names: Iterable[str], *, least: int, others: Iterable[str] = ()) -> tuple[str, ...]:
    """The shortest end of each place, of ``least`` parts at least; layers and experts are places once.

    An end that has to name what holds the layers has `ANY_NUMBER` for theirs.

    None is one of ``others``, which PEFT would have to adapt with it, and refuses to.
    """
    places = dict.fromkeys(_NUMBER.sub(f".{ANY_NUMBER}", name) for name in names)
    refused = [f".{one}" for one in dict.fromkeys(_NUMBER.sub(f".{ANY_NUMBER}", name) for name in others)]
    by_last: dict[str, list[str]] = defaultdict(list)
    for place in places:
        parts = place.split(".")
        by_last[".".join(parts[-least - parts[-1].isdigit() :])].append(place)
    ends: dict[str, None] = {}
    for last, sharing in by_last.items():
        rivals = [one[1:] for one in refused if one.endswith(f".{last}")]
        ends |= {} if rivals else {last: None}
        if len(sharing) > 1 or rivals:
            ends |= dict.fromkeys(_own_end(place, [*sharing, *rivals], least + 1) for place in sharing)
    return tuple(end for end in ends if end and end.count(ANY_NUMBER) < 2)


def _own_end(place: str, sharing: list[str], least: int) -> str:
    parts = place.split(".")
    for count in range(least, len(parts) + 1):
        if parts[-count] == ANY_NUMBER:
            continue
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in sharing) == 1:
            return end
    return ""
