"""Why something cannot be certified: one class per reason, with what would work."""

from __future__ import annotations

from difflib import get_close_matches

from conformance.subjects.constructors import recipe_to_paste
from lora_compat.families import Family
from strategies.libraries import BASE_CLASSES


class SubjectError(Exception):
    """Something that cannot be certified, for a reason that its author can act on; ``title`` says it in few words."""

    title = "cannot be certified"
    is_usage = True  # a matter of how the command was given, not of what the class does


class TargetNotFoundError(SubjectError):
    """A target that names nothing."""

    title = "not found"

    def __init__(self, given: str, problem: str, valid: list[str] = []) -> None:  # noqa: B006
        name = given.rpartition(":")[2]
        close = get_close_matches(name, valid, n=1)
        hint = f" Did you mean {given[: -len(name)]}{close[0]}?" if close else ""
        choice = f" Linear layers there: {', '.join(valid[:8])}." if valid else ""
        super().__init__(f"{given}: {problem}.{choice}{hint} Give package.module:Class, a module or a package.")


class TargetImportError(SubjectError):
    """A target whose module cannot be imported."""

    title = "import fails"

    def __init__(self, given: str, error: BaseException) -> None:
        where = _innermost_line(error)
        super().__init__(
            f"{given}: importing it raised {type(error).__name__}: {error}{where}\n"
            f"Make `python -c 'import {given.partition(':')[0]}'` work first."
        )


class NoLinearLayerError(SubjectError):
    """A target that is no linear layer, or a module without one."""

    title = "no linear layer"

    def __init__(self, given: str, what: str) -> None:
        families = ", ".join(BASE_CLASSES.values())
        super().__init__(
            f"{given} {what}.\nA certified class derives, at any depth, from one of {families} "
            "(of vllm.model_executor.layers.linear or lora_compat), or from a class registered with "
            "lora_compat.registry.register."
        )


class MissingRecipeError(SubjectError):
    """A class that cannot be built from what its constructor says; the message has a recipe to paste."""

    title = "needs a recipe"

    def __init__(self, path: str, cls: type, family: Family, problem: str) -> None:
        super().__init__(f"{path}: {problem}.\n{recipe_to_paste(path, cls, family)}")


class UnfitClassError(SubjectError):
    """A class that does not work by itself, without any LoRA."""

    title = "does not run by itself"
    is_usage = False

    def __init__(self, path: str, tp_size: int, problem: str) -> None:
        super().__init__(f"{path} does not run by itself at TP {tp_size}, before any LoRA: {problem}")


def _innermost_line(error: BaseException) -> str:
    trace = error.__traceback__
    place = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and "importlib" not in file:
            place = f" (line {trace.tb_lineno} of {file.rpartition('/')[2]})"
        trace = trace.tb_next
    return place
