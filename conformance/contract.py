"""The contract as code: every clause with its level, its sentence and the bugs that taught it.

`docs/contract.md` is generated from this table (``python -m conformance.contract``).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

CONTRACT_VERSION = 1


class Level(enum.Enum):
    """How binding a clause is."""

    MUST = "MUST"
    SHOULD = "SHOULD"


@dataclass(frozen=True, slots=True)
class Clause:
    """One sentence an implementation can keep or break."""

    id: str
    level: Level
    sentence: str
    history: tuple[str, ...] = ()

    @property
    def chapter(self) -> str:
        return self.id.partition("-")[0]


CHAPTERS = {
    "WRAP": "dispatch",
    "UNWRAP": "through wrappers to the quant method",
    "RANK": "the dummy warm-up rank",
    "MATH": "the numbers",
    "TARGET": "which modules",
    "LIFE": "adapters come and go",
    "MODEL": "from an adapter file to a model",
    "KERNEL": "the device code",
    "COMM": "collectives",
}


def _must(id_: str, sentence: str, *history: str) -> Clause:
    return Clause(id_, Level.MUST, sentence, history)


def _should(id_: str, sentence: str, *history: str) -> Clause:
    return Clause(id_, Level.SHOULD, sentence, history)


_CLAUSES = (
    _must(
        "WRAP-1",
        "A subclass of a supported linear family, at any inheritance depth, with mixins, created dynamically or "
        "registered out of tree, that does not change `forward`, is replaced by a LoRA layer of that family.",
        "vllm #35077",
        "vllm #42306",
    ),
    _should("WRAP-2", "A subclass with its own `forward` is replaced too.", "vllm #35077"),
    _must(
        "WRAP-3",
        "Exactly one LoRA layer class claims a layer; the choice does not depend on the order of a registry or on "
        "the hash seed.",
        "vllm #36372",
    ),
    _must(
        "WRAP-4",
        "With no adapter active the wrapped layer is transparent: bit-identical output, same return type, extra "
        "arguments of `forward` passed on, parameters the same storages, attributes that kernels read still "
        "reachable.",
        "vllm #53361",
        "vllm #35077",
    ),
    _must(
        "WRAP-5",
        "Wrapping what is wrapped already never applies an adapter twice; one module reachable under two names gets "
        "one wrapper.",
        "vllm #42757",
    ),
    _must(
        "WRAP-6",
        "A layer that cannot be wrapped: if the deployment named it in `target_modules`, an error that names the "
        "module, its class and the targets; otherwise one warning and an untouched layer.",
        "vllm #52313",
        "vllm #57503",
    ),
    _must(
        "WRAP-7",
        "A sibling that reads `.weight` of the wrapped layer around its `forward` either gets the adapter's "
        "contribution or is reported; it is not silently served base weights.",
        "sglang #22268",
        "TensorRT-LLM #6698",
        "PEFT #2556",
    ),
    _must(
        "WRAP-8",
        "A sibling that dequantizes the weight stored in the wrapped layer, around its `forward`, either gets the "
        "adapter's contribution or is reported.",
        "TensorRT-LLM #6698",
        "PEFT #2556",
    ),
    _must(
        "UNWRAP-1",
        "From any nesting depth n ≥ 0 the quant method found is the base layer's own object.",
        "vllm #35077",
    ),
    _must(
        "UNWRAP-2",
        "The dense weight read through wrappers equals the dense weight of the bare layer, for every quantization "
        "the implementation supports.",
        "vllm #35077",
    ),
    _must("UNWRAP-3", "A wrapper in the middle that has no quant method, or `None`, does not end the search."),
    _must(
        "UNWRAP-4",
        "A chain with no quant method anywhere, or one that loops, ends in a clear error in bounded time.",
    ),
    _must(
        "RANK-1",
        "The warm-up rank is a multiple of the TP size of every module that shards it (their least common multiple).",
        "vllm #35077",
    ),
    _must("RANK-2", "It is the smallest such multiple ≥ the default, when that fits `max_lora_rank`."),
    _must("RANK-3", "It is the default, unchanged, where nothing shards the rank."),
    _must(
        "RANK-4",
        "Where no multiple fits, an error names the default, the multiple and the maximum; before that, the largest "
        "multiple that does fit is taken, even below the default.",
    ),
    _must(
        "RANK-5",
        "A dummy adapter of that rank loads into every wrapped module and leaves every output as it was.",
    ),
    _must(
        "RANK-6",
        "A mixture whose experts cut the rank counts in RANK-1, one that expert parallelism holds whole does not; a "
        "dummy adapter loads into every expert and leaves the output as it was.",
        "vllm #35077",
    ),
    _must(
        "MATH-1",
        "One adapter, any family, TP size, sharding mode and rank ≤ max: output = merged weights.",
        "vllm #45691",
        "vllm #25487",
        "vllm #27065",
        "lorax #47",
    ),
    _must(
        "MATH-2",
        "Mixed batches: every token gets exactly its own adapter, or none; permuting tokens permutes outputs.",
        "vllm #48421",
    ),
    _must(
        "MATH-3",
        "Tokens without an adapter are bit-identical to the base layer.",
        "vllm #48421",
        "vllm #49656",
    ),
    _must("MATH-4", "A rank-r adapter in a rank-R slot gives what it gives in a rank-r slot.", "vllm #31994"),
    _must(
        "MATH-5",
        "A slot re-used by a smaller adapter, or reset, shows nothing of the former one, whatever was in the padding.",
    ),
    _must("MATH-6", "The result does not depend on TP size or on `fully_sharded_loras`.", "vllm #45691"),
    _must(
        "MATH-7",
        "2-D, 3-D, non-contiguous, one-token and zero-token inputs are all served; the input and the adapter's "
        "tensors are not written to.",
        "vllm #20873",
    ),
    _must(
        "MATH-8",
        "Packed layers: each present sub-adapter lands in its own slice, absent ones leave base weights; a single "
        "tensor for the whole packed layer works like its slices.",
        "vllm #10450",
        "vllm #4609",
        "vllm #10352",
        "vllm #10958",
        "vllm #36372",
        "vllm #51409",
    ),
    _must("MATH-9", "Bias is added once, on the right rank, and `skip_bias_add` hands it back instead."),
    _must("MATH-10", "Half and bfloat16 results stay inside the derived error bound."),
    _must(
        "MATH-11",
        "On quantized base layers the answer is that of the dequantized operands the kernel really used.",
    ),
    _must("MATH-12", "Scaling (alpha/r, rsLoRA) is applied exactly once.", "vllm #6909"),
    _must("MATH-13", "The same call twice gives the same bits."),
    _must(
        "TARGET-1",
        "Suffix, full name, packed parent by child and packed child by parent all match; nothing else does.",
        "vllm #35077",
        "vllm #52313",
    ),
    _must("TARGET-2", "`None` matches every supported module; an empty list matches none."),
    _must(
        "LIFE-1",
        "After any sequence of add, activate, deactivate, remove, pin, evict and re-map, every token's output is that "
        "of a fresh engine holding just the adapters that are active.",
        "vllm #20873",
        "vllm #47724",
        "vllm #42757",
    ),
    _must(
        "LIFE-2",
        "Capacity, LRU order and pinning hold; a full house is an error that says so, and loses nothing.",
    ),
    _must(
        "LIFE-3",
        "An adapter whose shapes do not fit is refused with the module, expected and received shapes, and leaves the "
        "state as it was; so does a load that fails half-way.",
    ),
    _must(
        "MATH-14",
        "An embedding gives the rows of merged weights: ids that another rank holds, added ids and ids outside the "
        "vocabulary included; the ids are not written to.",
    ),
    _must(
        "MATH-15",
        "Logits are those of merged weights for every id in order, whatever padding and sharding the LM head has.",
    ),
    _must(
        "MATH-16",
        "In a mixture of experts every token gets its adapter in each of its experts, gate, up and down, fused or "
        "apart, under tensor and expert parallelism and in any sharding mode; experts without an adapter stay as "
        "they are.",
        "vllm #35077",
    ),
    _must(
        "MATH-17",
        "On a base layer whose kernel quantizes activations, adapters see the activations as they were handed in.",
    ),
    _must(
        "MATH-18",
        "Where adapters can be merged into the base weights, alone or as a weighted sum, the layer, whatever its "
        "forward, gives what merged weights give; unmerged, it gives what it gave before.",
    ),
    _must(
        "MODEL-1",
        "Every tensor of an adapter file changes what a module of the model computes, or is refused by name; none "
        "vanishes, alone or among others.",
        "vllm #11253",
        "vllm #39278",
        "vllm #18842",
    ),
    _must(
        "MODEL-2",
        "Base checkpoint + adapter = merged checkpoint, loaded by the model's own `load_weights`: every linear layer, "
        "gate, embedding, head and expert, and every copy of a weight, on every rank.",
        "vllm #48215",
        "vllm #36372",
    ),
    _must(
        "MODEL-3",
        "Any way of writing the same adapter gives the same: under the names of the model, its checkpoint or its "
        "language model, experts in one tensor or one by one.",
        "vllm #39278",
        "vllm #48019",
    ),
    _must(
        "MODEL-4",
        "LoRA switched on changes nothing: with no adapter, and after adapters were used and removed, each module is "
        "bit-identical to that of the model without LoRA.",
        "vllm #48421",
    ),
    _must(
        "MODEL-5",
        "Loading leaves the files and other adapters as they were; loading again, or after another adapter, gives the "
        "same.",
        "vllm #20873",
    ),
    _must(
        "MODEL-6",
        "A class that declares LoRA support starts with it, with each option that it declares, warm-up included; one "
        "that does not is refused by name.",
        "vllm #18845",
        "vllm #57708",
    ),
    _must("MODEL-7", "The result does not depend on the TP size or the sharding mode.", "vllm #45691"),
    _should(
        "MODEL-8",
        "Logits with the adapter are those of PEFT's own model of transformers, inside what rounding takes them away.",
        "vllm #48215",
    ),
    _must(
        "MODEL-9",
        "What an adapter brings beyond A, B and a scaling (DoRA, biases, trained tokens, an embedding of its own, "
        "tokens that switch it on, a changed base, repeated layers) changes what is computed, or the adapter is "
        "refused by that name.",
    ),
    _must(
        "MODEL-10",
        "Each part of a model goes by its own rows: which of them have an adapter in a tower or connector does not "
        "depend on the tokens of text that are in the batch, nor the other way round.",
    ),
    _must("COMM-1", "All ranks issue the same sequence of collectives with matching shapes."),
    _must("COMM-2", "A layer with `disable_tp`, or of TP size 1, issues none.", "vllm #25487"),
)

CONTRACT: dict[str, Clause] = {clause.id: clause for clause in _CLAUSES}
MODEL_CLAUSES = tuple(name for name, clause in CONTRACT.items() if clause.chapter == "MODEL")


def page() -> str:
    """The contract as Markdown."""
    lines = [
        "# The contract",
        "",
        f"Generated from `conformance/contract.py`, version {CONTRACT_VERSION}. What a LoRA implementation must do",
        "with a linear layer it is handed, and with a model and its adapter files.",
    ]
    for chapter, title in CHAPTERS.items():
        clauses = [clause for clause in _CLAUSES if clause.chapter == chapter]
        if clauses:
            lines += ["", f"## {chapter} — {title}", ""]
        for clause in clauses:
            history = f" *({', '.join(clause.history)})*" if clause.history else ""
            lines.append(f"- **{clause.id}** {clause.level.value} {clause.sentence}{history}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
