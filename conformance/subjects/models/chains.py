"""The chain of a case: base checkpoint, adapter directory and merged checkpoint, each made by the library it is of."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn

from conformance.subjects.models.adapters import TENSORS, AdapterFile, adapted, read_adapter, save_adapter
from conformance.subjects.models.checkpoints import content_of, model_of, save, untied
from conformance.subjects.models.features import add_layer
from conformance.subjects.models.making import uninitialized
from conformance.subjects.outcomes import HarnessError, NotApplicable
from strategies.models.adapters import FURTHER_LAYER
from strategies.models.cases import ModelCase
from strategies.models.deployments import PLAIN

_KEPT = 32  # chains; those that every clause begins with, and of a case on other ranks, are asked for again


@dataclass(frozen=True, slots=True)
class Ends:
    """Whether embedding and head, which share one weight, are adapted; PEFT adapts the one that is named."""

    embedding: bool
    head: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """Three directories, what is in the adapter's, and what was found out about them that others ask for again.

    ``read`` is what each rank reads of a model that nothing was done to before, ``taken`` what is served alone,
    ``served`` why a case is not, None where it is. An adapter with a feature is not merged.
    """

    root: Path
    file: AdapterFile
    ends: Ends | None = None
    read: dict[Any, dict[int, Any]] = field(default_factory=dict, compare=False, repr=False)
    taken: dict[Any, dict[str, bool]] = field(default_factory=dict, compare=False, repr=False)
    served: dict[Any, Exception | None] = field(default_factory=dict, compare=False, repr=False)

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

    @property
    def merged_tied(self) -> Path:
        """The same in one weight for both ends; there where `ends` has exactly one that is adapted."""
        return self.root / "merged-tied"

    def fingerprint(self) -> dict[str, str]:
        """What is in the adapter's directory, as hashes."""
        files = sorted(path for path in self.adapter.iterdir() if path.is_file())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


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
            HarnessError: transformers or PEFT cannot make it, or PEFT's merge is not W + scaling · B · A.
        """
        key = replace(case, tp_size=1, fully_sharded=False, options=(), deployment=PLAIN, stages=1, stage=None)
        if key not in self._chains:
            self._made += 1
            self._chains[key] = self._made_of(key)
            if len(self._chains) > _KEPT:
                _, oldest = self._chains.popitem(last=False)
                shutil.rmtree(oldest.root, ignore_errors=True)
        self._chains.move_to_end(key)
        return self._chains[key]

    def _made_of(self, case: ModelCase) -> Chain:
        try:
            return make(case, self._root / str(self._made))
        except (NotApplicable, HarnessError):
            raise
        except NotImplementedError as error:
            raise NotApplicable(f"transformers does not say what PEFT asks it: {error}") from error
        except Exception as error:  # of transformers or PEFT
            raise HarnessError(f"the chain cannot be made: {type(error).__name__}: {error}") from error


def make(case: ModelCase, root: Path) -> Chain:
    """Makes the three directories under ``root``; raises what `Chains.of` does."""
    with torch.no_grad():
        content = content_of(case)
        model: Any = model_of(case, content)
        save(model, root / "base", content)
        before = {name: parameter.clone() for name, parameter in model.named_parameters(remove_duplicate=False)}
        with uninitialized():
            wrapped = adapted(model, case.adapter, case.seed)
        save_adapter(wrapped, root / "adapter")
        file = read_adapter(root / "adapter", wrapped)
        if case.adapter.feature == FURTHER_LAYER:
            add_layer(root / "adapter" / TENSORS, file.keys_by_module())
        if case.adapter.feature:  # PEFT merges not all of them, and none exactly
            return Chain(root, file)
        ends = _untie(wrapped, file)
        merged: Any = wrapped.merge_and_unload()
        _check_merge(file, before, dict(merged.named_parameters(remove_duplicate=False)), case)
        save(merged, root / "merged", untied(content) if ends else content)
        chain = Chain(root, file, ends)
        if ends is not None and ends.embedding != ends.head:
            _tie(merged, to_head=ends.head)
            save(merged, chain.merged_tied, content)
    return chain


def _untie(wrapped: Any, file: AdapterFile) -> Ends | None:
    """Parts a head from the embedding it shares its weight with, where one of them is adapted.

    PEFT's merge would write into both.
    """
    model = wrapped.get_base_model()
    try:
        ends_of_model = model.get_output_embeddings(), model.get_input_embeddings()
    except NotImplementedError:  # a model of several models has no ends of its own
        return None
    head, embedding = (getattr(end, "base_layer", end) for end in ends_of_model)
    if head is None or embedding is None or head.weight is not embedding.weight:
        return None
    adapted_ones = [model.get_submodule(pair.module) for pair in file.pairs]
    adapted_ones = [getattr(one, "base_layer", one) for one in adapted_ones]
    ends = Ends(any(one is embedding for one in adapted_ones), any(one is head for one in adapted_ones))
    if not (ends.embedding or ends.head):
        return None
    head.weight = nn.Parameter(head.weight.clone(), requires_grad=False)
    _set_tied(model, tied=False)
    model.all_tied_weights_keys = {}
    return ends


def _tie(merged: Any, *, to_head: bool) -> None:
    """Gives both ends the weight of one."""
    head, embedding = merged.get_output_embeddings(), merged.get_input_embeddings()
    if to_head:
        embedding.weight = head.weight
    else:
        head.weight = embedding.weight
    _set_tied(merged, tied=True)
    merged.all_tied_weights_keys = merged.get_expanded_tied_weights_keys(all_submodels=True)


def _set_tied(model: Any, *, tied: bool) -> None:
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = tied


def _check_merge(
    file: AdapterFile, before: Mapping[str, Tensor], after: Mapping[str, Tensor], case: ModelCase
) -> None:
    """Every adapted parameter is W + scaling · B · A of the saved tensors, every other one is as it was."""
    right = {name: tensor.float() for name, tensor in before.items()}
    for pair in file.pairs:
        right[pair.parameter] = right[pair.parameter] + pair.delta
    for name, tensor in after.items():
        if name not in right:
            raise NotApplicable("PEFT merges no layer inside of a module of which it adapts a parameter too")
        saved = any(one in name.split(".") for one in case.adapter.saved)
        if not saved and not torch.equal(tensor.float(), right[name]):
            raise HarnessError(f"PEFT's merge of {name} is not W + scaling · B · A of the saved tensors")
