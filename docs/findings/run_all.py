"""Runs the findings, all or those named, on the installed vLLM: one line each, PRESENT, absent or FAILED.

vLLM is imported once; each script runs in a fork of this process. ``--json`` prints one object a line instead.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "OMP_NUM_THREADS": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}

import json
import runpy
import sys
import tempfile
import traceback
from pathlib import Path

import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()

import vllm.lora.model_manager
import vllm.lora.utils
import vllm.model_executor.layers.linear

VERDICTS = {0: "absent", 1: "PRESENT"}


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
    names = [one for one in arguments if one != "--json"]
    scripts = map(Path, names) if names else sorted(Path(__file__).parent.glob("[0-9]*.py"))
    for script in scripts:
        verdict, output = run(script)
        if "--json" in arguments:
            print(json.dumps({"script": script.name, "verdict": verdict, "output": output}), flush=True)
        else:
            print(f"{script.name:<45}{verdict} in vLLM {vllm.__version__}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
