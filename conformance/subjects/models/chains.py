"""The chain of a case: base checkpoint, adapter directory and merged checkpoint, each made by the library it is of."""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn

from conformance.subjects.models.adapters import AdapterFile, adapted, read_adapter
from conformance.subjects.models.checkpoints import config_of, filled, model_of, save
from conformance.subjects.outcomes import HarnessError
from strategies.models.cases import ModelCase

_KEPT = 8  # chains; those of a case on other ranks and of its simpler neighbours are asked for again


@dataclass(frozen=True, slots=True)
class Chain:
    """Three directories, and what is in the adapter's."""

    root: Path
    file: AdapterFile

    @property
    def base(self) -> Path:
        """The checkpoint without an adapter."""
        return self.root / "base"

    @property
    def adapter(self) -> Path:
        """The PEFT directory."""
        return self.root / "adapter"

    @property
    def merged(self) -> Path:
        """The checkpoint with the adapter merged by PEFT."""
        return self.root / "merged"


class Chains:
    """The last chains that were made, in a folder that goes with the process."""

    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="lora-compat-"))
        self._chains: OrderedDict[ModelCase, Chain] = OrderedDict()
        self._made = 0
        finalize(self, shutil.rmtree, self._root, ignore_errors=True)

    def of(self, case: ModelCase) -> Chain:
        """The chain of a case, whatever the ranks it is served on.

        Raises:
            NotApplicable: PEFT makes no such adapter.
            HarnessError: PEFT's merge is not W + scaling · B · A.
        """
        key = replace(case, tp_size=1, fully_sharded=False)
        if key not in self._chains:
            self._made += 1
            self._chains[key] = make(key, self._root / str(self._made))
            if len(self._chains) > _KEPT:
                _, oldest = self._chains.popitem(last=False)
                shutil.rmtree(oldest.root, ignore_errors=True)
        self._chains.move_to_end(key)
        return self._chains[key]


def make(case: ModelCase, root: Path) -> Chain:
    """Makes the three directories under ``root``; raises what `Chains.of` does."""
    with torch.no_grad():
        model: Any = filled(model_of(config_of(case)), case.seed)
        save(model, root / "base")
        before = {name: parameter.clone() for name, parameter in model.named_parameters(remove_duplicate=False)}
        wrapped = adapted(model, case.adapter, case.seed)
        wrapped.save_pretrained(root / "adapter")
        chain = Chain(root, read_adapter(root / "adapter", wrapped))
        _untie(wrapped)
        merged: Any = wrapped.merge_and_unload()  # type: ignore[operator]
        _check_merge(chain, before, dict(merged.named_parameters(remove_duplicate=False)), case)
        save(merged, root / "merged")
    return chain


def _untie(wrapped: Any) -> None:
    """Parts a head from the embedding it shares its weight with.

    PEFT adapts the one that is named, and its merge would write into both.
    """
    model = wrapped.get_base_model()
    if not getattr(model.config, "tie_word_embeddings", False):
        return
    head = model.get_output_embeddings()
    head = getattr(head, "base_layer", head)
    if head is None:
        return
    head.weight = nn.Parameter(head.weight.clone(), requires_grad=False)
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def _check_merge(chain: Chain, before: Mapping[str, Tensor], after: Mapping[str, Tensor], case: ModelCase) -> None:
    """Every adapted parameter is W + scaling · B · A of the saved tensors, every other one is as it was."""
    right = {name: tensor.float() for name, tensor in before.items()}
    for pair in chain.file.pairs:
        right[pair.parameter] = right[pair.parameter] + pair.delta
    for name, tensor in after.items():
        saved = any(name.rpartition(".")[0].endswith(one) for one in case.adapter.saved)
        if not saved and not torch.equal(tensor.float(), right[name]):
            raise HarnessError(f"PEFT's merge of {name} is not W + scaling · B · A of the saved tensors")
