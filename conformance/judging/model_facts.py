"""What goes wrong between an adapter file and a model, as data; `conformance.judging.facts` has the other facts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Added:
    """What an adapter adds to a part of a model's module, in the first element that is wrong; empty where no shape is.

    ``tensor`` is the key of the file that the number is of, ``others`` how many more modules are wrong.
    """

    part: str
    element: tuple[int, ...]
    actual: float
    expected: float
    tensor: str = ""
    others: int = 0

    def __str__(self) -> str:
        more = f" (and {self.others} more modules)" if self.others else ""
        if not self.element:
            return f"{self.part}: not of the shape that the merged model's has{more}"
        added = f"the adapter adds {self.actual:g}, but should be {self.expected:g}"
        return f"{self.part}{list(self.element)}: {added}{f'; {self.tensor} of the file' if self.tensor else ''}{more}"


@dataclass(frozen=True, slots=True)
class Lost:
    """Tensors of one module of an adapter file that change nothing: by themselves, or only where the rest is loaded.

    Of each other module of which that is so a key is in ``alike``, or if its role is another, that role, whether it is
    among others and its keys in ``more``; ``whole`` says that the file has no other tensors.
    """

    keys: tuple[str, ...]
    among_others: bool = False
    whole: bool = False
    alike: tuple[str, ...] = ()
    more: tuple[tuple[str, bool, tuple[str, ...]], ...] = ()

    def __str__(self) -> str:
        too = (*self.alike, *(keys[-1] for _, _, keys in self.more))
        others = f" (and {', '.join(too)})" if too else ""
        if self.among_others:
            return f"{self.keys[-1]} among others: without it the model computes the same{others}"
        return f"{self.keys[-1]} by itself: loaded, and no module computes anything else{others}"
