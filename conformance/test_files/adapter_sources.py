"""What makes an adapter of a regression file out of its numbers: in memory, or through a PEFT directory."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.subjects.adapter_files import peft_config
from conformance.test_files.literals import one_line
from conformance.test_files.plays import Play

SAVING = "from safetensors.torch import save_file"
LORA_COMPAT = """
def adapter(number: int) -> Adapter:
    modules = {}
    for name, (a, b, scaling) in ADAPTERS[number].items():
        modules[name] = ModuleAdapter(a.clone(), b.clone(), scaling)
    return Adapter(modules)
""".strip("\n")
VLLM = """
def adapter(number: int) -> LoRAModel:
    weights = {}
    for name, (a, b, scaling) in ADAPTERS[number].items():
        rank, tensors = len(a), (a.clone(), b.clone())
        weights[name] = LoRALayerWeights(name, rank, rank, *tensors, scaling)
    return LoRAModel(number, RANK, weights)
""".strip("\n")
_SAVED = """
def adapter(number: int) -> {cls}:  # saved as PEFT does{loaded}
    tensors = {{}}
    for name, (a, b) in ADAPTERS[number].items():
        tensors[f"base_model.model.{{name}}.lora_A.weight"] = a
        tensors[f"base_model.model.{{name}}.lora_B.weight"] = b
    with TemporaryDirectory() as folder:
        save_file(tensors, f"{{folder}}/adapter_model.safetensors")
        Path(folder, "adapter_config.json").write_text(json.dumps(CONFIGS[number]))
{loading}
""".strip("\n")
LORA_COMPAT_SAVED = _SAVED.format(cls="Adapter", loaded="", loading="        return load_adapter(folder)")
_BY_THE_WORKER = """
        helper = PEFTHelper.from_local_dir(folder, None)
        modules = set(helper.target_modules)
        return LoRAModel.from_local_checkpoint(
            folder, modules, helper, lora_model_id=number, device="cpu"
        )
""".strip("\n")
VLLM_SAVED = _SAVED.format(cls="LoRAModel", loaded=", loaded as a worker does", loading=_BY_THE_WORKER)


def configs(play: Play, added: Sequence[int]) -> list[str]:
    """``CONFIGS``, what each adapter's ``adapter_config.json`` says, without what is as it is by default."""
    names, told = play.checkpoint_names(), {}
    for number in added:
        config = peft_config({names[name]: part for name, part in play.values.parts(number).items()})
        told[number + 1] = {key: value for key, value in config.items() if value}
    return [f"CONFIGS: dict[int, dict[str, Any]] = {one_line(told)}"]
