"""Runs the findings, all or those named, on the installed SGLang, which is imported once: one line each."""

import os
import runpy
import sys
import traceback
from pathlib import Path

import served

VERDICTS = {0: "absent", 1: "PRESENT"}


def run(script: Path) -> str:
    """The verdict of a script, run in a fork of this process."""
    child = os.fork()
    if child == 0:
        os._exit(_exit_code(script))
    return VERDICTS.get(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "FAILED")


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
    scripts = map(Path, arguments) if arguments else sorted(Path(__file__).parent.glob("[0-9]*.py"))
    for script in scripts:
        print(f"{script.name:<45}{run(script)} in SGLang {served.__version__}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
