"""What is drawn of a class: how it derives from its family's base class, and what it overrides."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.codec import Named, Spec
from strategies.forwards import Forward


class Constructor(Named):
    """What a subclass does to its constructor."""

    INHERITED = "inherited"
    RENAMED = "renamed"  # other parameter names, keyword-only
    HARD_CODED = "hard_coded"  # no parameters but the quant config


class Loader(Named):
    """What a subclass does to its weight loader."""

    INHERITED = "inherited"
    PASS_THROUGH = "pass_through"
    REPLICATED_LAST = "replicated_last"  # the last output is whole on every rank, inside a sharded layer


class Mixins(Named):
    """Further bases of a subclass."""

    NONE = "none"
    BEFORE = "before"
    AFTER = "after"
    DIAMOND = "diamond"


@dataclass(frozen=True, slots=True, repr=False)
class SubclassSpec(Spec):
    """A class derived from a family's base class; depth 0 is the base class itself.

    With ``target``, ``package.module:Class``, it is that existing class instead of a rendered one, built by the
    function ``recipe``, ``package.module:function``, where its constructor cannot be inferred.
    """

    depth: int = 0
    mixins: Mixins = Mixins.NONE
    dynamic: bool = False
    constructor: Constructor = Constructor.INHERITED
    loader: Loader = Loader.INHERITED
    forward: Forward = Forward.INHERITED
    target: str | None = None
    recipe: str | None = None

    @property
    def changes_forward(self) -> bool:
        """Whether the class has a forward of its own."""
        return self.forward is not Forward.INHERITED

    @property
    def keeps_layout(self) -> bool:
        """Whether what each rank returns is known: of drawn classes, and of existing ones that change nothing."""
        overrides = self.forward, self.loader, self.constructor
        unchanged = overrides == (Forward.INHERITED, Loader.INHERITED, Constructor.INHERITED)
        return self.target is None or unchanged
