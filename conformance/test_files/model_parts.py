"""Tests of what an adapter is, or a batch has, besides: a feature of PEFT's, and text beside a tower's rows."""

from __future__ import annotations

from conformance.judging.facts import Raised
from conformance.subjects.models.features import ASKED
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import indented, one_line
from conformance.test_files.model_scenes import BASE, Told, adding, scripted, targets_of
from conformance.test_files.script import Script
from strategies.models.adapters import EMBEDDING, SAVED_EMBEDDING


def featured(told: Told) -> Script:
    """MODEL-9: an adapter with a feature is refused by that name, or an embedding that it holds is what is looked up.

    Raises:
        CannotWrite: another feature is passed over.
    """
    feature = told.case.adapter.feature
    names = [ASKED[feature][1], *targets_of(told.case.adapter)]
    lines = [
        BASE,
        "try:",
        *indented([adding(told)]),
        "except (RuntimeError, ValueError) as error:",
        f"    if not any(one in str(error).lower() for one in {one_line(tuple(names))}):",
        "        raise",
        "    return  # refused by name",
    ]
    if isinstance(told.fact, Raised):
        return scripted(told, lines)
    if feature != SAVED_EMBEDDING:
        raise CannotWrite(f"what {feature} comes to has no form as a single file yet; replay the case")
    lines += [
        "layers = worker._adapter_manager.modules.items()",
        f'(layer,) = (one for name, one in layers if name.endswith("{EMBEDDING}"))',
        "tokens = torch.arange(layer.base_layer.org_vocab_size)",
        "ids = (1,) * len(tokens)",
        "worker.set_active_adapters(set(), LoRAMapping(ids, ids, is_prefill=False))",
        "assert torch.equal(layer(tokens), adapted.get_input_embeddings()(tokens))",
    ]
    return scripted(told, lines)


def apart(told: Told) -> Script:
    """MODEL-10: a layer of a tower gives the same for its rows, whatever text is in the batch."""
    lines = [
        'model, worker = served(f"{folder}/base")',
        adding(told),
        f'layer = model.get_submodule("{told.place.module}")',
        "rows, ids = torch.eye(layer.input_size), (1,) * layer.input_size",
        "for part in LoRAMappingType:",
        "    worker.set_active_adapters(set(), LoRAMapping(ids, ids, False, part))",
        "right = layer(rows)[0]",
        "text = LoRAMapping((0, 0), (0, 0), is_prefill=False)  # two tokens, no adapter",
        "worker.set_active_adapters(set(), text)",
        "assert torch.equal(layer(rows)[0], right)",
    ]
    return scripted(told, lines)
