"""Runs the findings named, or all of an engine (vllm, unless peft or sglang is named); PRESENT, absent or FAILED.

The engine is imported once; each script runs in a fork of this process. ``--json`` prints one object a line instead.
"""

import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "OMP_NUM_THREADS": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}

HERE = Path(__file__).parent
FOLDERS = {"vllm": HERE, "peft": HERE / "peft", "sglang": HERE / "sglang"}
VERDICTS = {0: "absent", 1: "PRESENT"}


def imported(engine: str) -> str:
    """Imports what the scripts of an engine import; says which it is."""
    if engine == "peft":
        return f"PEFT {importlib.import_module('peft').__version__}"
    if engine == "sglang":
        sys.path.insert(0, str(FOLDERS[engine]))  # what its scripts share is beside them
        return f"SGLang {importlib.import_module('served').__version__}"
    platforms = importlib.import_module("vllm.platforms")
    platforms._current_platform = importlib.import_module("vllm.platforms.cpu").CpuPlatform()
    for module in ("vllm.lora.model_manager", "vllm.lora.utils", "vllm.model_executor.layers.linear"):
        importlib.import_module(module)
    return f"vLLM {importlib.import_module('vllm').__version__}"


def run(script: Path) -> tuple[str, str]:
    """The verdict of a script and what it printed."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os._exit(_exit_code(script))
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return VERDICTS.get(os.waitstatus_to_exitcode(status), "FAILED"), output.read()


def _exit_code(script: Path) -> int:
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        sys.stdout.flush()
        return end.code if isinstance(end.code, int) else 2
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    return 2


def main(arguments: list[str]) -> None:
    engines = [one for one in arguments if one in FOLDERS] or ["vllm"]
    names = [one for one in arguments if one != "--json" and one not in FOLDERS]
    scripts = [Path(name) for name in names] or sorted(FOLDERS[engines[0]].glob("[0-9]*.py"))
    folder = scripts[0].resolve().parent.name
    engine = imported(folder if folder in FOLDERS else "vllm")
    for script in scripts:
        verdict, output = run(script)
        if "--json" in arguments:
            print(json.dumps({"script": script.name, "verdict": verdict, "output": output}), flush=True)
        else:
            print(f"{script.name:<45}{verdict} in {engine}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
