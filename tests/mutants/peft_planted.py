"""Bugs planted in PEFT's LoRA layers, as run-time patches of what PEFT 0.21 has; nothing of its source is here."""

from __future__ import annotations

import sys

import torch

from tests.mutants.planting import planted_in
from tests.mutants.vllm_planted import plant_in

LAYERS = "peft.tuners.lora.layer:"
LORA, LINEAR, EMBEDDING, PARAMETER = (LAYERS + name for name in ("LoraLayer", "Linear", "Embedding", "ParamWrapper"))
MODEL = "peft.peft_model:PeftModel"
TUNER = "peft.tuners.lora.model:LoraModel"


@plant_in(LORA, "update_layer", origin="scaling forgotten", clauses="MATH-12 MATH-1", anomalies="scale-dropped")
def scaling_is_always_one(original):
    """Whatever alpha and rank, the contribution is not scaled."""

    def update_layer(self, adapter_name, *arguments, **options):
        original(self, adapter_name, *arguments, **options)
        self.scaling[adapter_name] = 1.0

    return update_layer


@plant_in(LORA, "_mixed_batch_forward", origin="sub-batch indices", clauses="MATH-2", anomalies="wrong-slot")
def a_mixed_batch_is_served_in_reverse(original):
    """The names of a mixed batch are read from the last sample to the first."""

    def _mixed_batch_forward(self, x, *arguments, adapter_names, **options):
        return original(self, x, *arguments, adapter_names=adapter_names[::-1], **options)

    return _mixed_batch_forward


@plant_in(LORA, "_mixed_batch_forward", origin="vllm #48421", clauses="MATH-3", anomalies="adapter-leak")
def samples_without_an_adapter_get_their_neighbours(original):
    """A sample that asks for the base model is served the adapter of another one."""

    def _mixed_batch_forward(self, x, *arguments, adapter_names, **options):
        other = next((name for name in adapter_names if name != "__base__"), "__base__")
        named = [other if name == "__base__" else name for name in adapter_names]
        return original(self, x, *arguments, adapter_names=named, **options)

    return _mixed_batch_forward


@plant_in(TUNER, "disable_adapter_layers", origin="a switch", clauses="WRAP-4", anomalies="base-changed raised")
def adapters_cannot_be_disabled(original):
    """Disabled adapters go on adding."""
    return lambda self: None


@plant_in(LINEAR, "get_delta_weight", origin="scaling", clauses="MATH-18", anomalies="merged-wrongly")
def merged_without_its_scaling(original):
    """What is merged into the weight is not scaled."""
    return lambda self, adapter: original(self, adapter) / self.scaling[adapter]


@plant_in(LINEAR, "unmerge", origin="a flag alone", clauses="MATH-18", anomalies="not-unmerged")
def unmerging_forgets_the_weight(original):
    """After unmerging the layer takes itself for unmerged, and its weight is what it was merged."""
    return lambda self: self.merged_adapters.clear()


@plant_in(EMBEDDING, "_mixed_batch_forward", origin="sub-batch indices", clauses="MATH-14", anomalies="wrong-slot")
def ids_of_a_mixed_batch_are_looked_up_in_reverse(original):
    """In a mixed batch of ids the names are read from the last to the first."""

    def _mixed_batch_forward(self, x, *arguments, adapter_names, **options):
        return original(self, x, *arguments, adapter_names=adapter_names[::-1], **options)

    return _mixed_batch_forward


@plant_in(PARAMETER, "get_delta_factors", origin="experts' order", clauses="MATH-16", anomalies="wrong-slot")
def experts_in_reverse(original):
    """Each expert gets the adapter of another one, counted from the last."""

    def get_delta_factors(self, adapter_name):
        left, right, scaling = original(self, adapter_name)
        return left.flip(0), right.flip(0), scaling

    return get_delta_factors


@plant_in(MODEL, "load_adapter", origin="a loader that skips", clauses="LIFE-1", anomalies="delta-dropped")
def loaded_as_zeros(original):
    """An adapter that is loaded from files has nothing but zeros in the last B."""

    def load_adapter(self, model_id, adapter_name, **options):
        result = original(self, model_id, adapter_name, **options)
        loaded = [weight for name, weight in self.named_parameters() if f"lora_B.{adapter_name}." in name]
        with torch.no_grad():
            loaded[-1].zero_()
        return result

    return load_adapter


PEFT_MUTANTS = planted_in(sys.modules[__name__])
