"""The cases that every clause about a model begins with: the plainest one, and a few that differ in one thing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from strategies.models.adapters import ANY_NUMBER, EMBEDDING, HEAD, SAVED_HEADS, ModelAdapter, Targetable
from strategies.models.cases import STAGES, ModelCase, ModelDraws
from strategies.models.configs import ConfigChoices
from strategies.models.deployments import COPIED, PLAIN, WIDE


def plain_cases(target: ModelDraws) -> list[ModelCase]:
    """The plainest configuration with everything adapted, then those with one option changed.

    In the last of these, or else in the first of all, there is room for more. And experts whose number 4 ranks do
    not divide, with copies, or in groups, or of which one alone is adapted; and the plainest in other ways, and with
    both of its ends adapted where they are one weight.
    """
    plainest = _plainest(target)
    changed = [
        ModelCase(target.path, config, ModelAdapter(modules), dtype=target.dtypes[0])
        for config, offer in _changed(target)
        if (modules := offer.untied)
    ]
    return [
        *plainest,
        *changed[:-1],
        *(replace(one, deployment=WIDE) for one in changed[-1:] or plainest[:1]),
        *_experts(target, ConfigChoices(experts=6)),
        *(replace(one, deployment=COPIED) for one in _experts(target, ConfigChoices())),
        *(_experts(target, ConfigChoices(groups=2)) if target.groups else ()),
        *_one_expert(target),
        *_both_ends(target),
        *(replace(one, options=way) for way in target.ways for one in plainest[:2] if not one.options),
    ]


def _changed(target: ModelDraws) -> Iterator[tuple[ConfigChoices, Targetable]]:
    """One option changed, of one layer of each type, or of two where the option asks for more than one.

    It does so if the type has experts, and one layer with it has none: it is about which layers have them.
    """
    plain = target.offer(ConfigChoices())
    for one in target.switches:
        configs = (ConfigChoices(layers=layers, switches=(one,)) for layers in (1, 2))
        found = ((config, offer) for config in configs if (offer := target.offer(config)) is not None)
        first = next(found, None)
        if first is not None:  # the second one is made where the first will not do
            pairs = chain((first,), found)
            yield next((pair for pair in pairs if plain is None or pair[1].has_experts >= plain.has_experts), first)


def _both_ends(target: ModelDraws) -> Iterator[ModelCase]:
    """Embedding and head adapted, where they are one weight in the plainest configuration, or in a changed one."""
    for config, offer in ((ConfigChoices(), target.offer(ConfigChoices())), *_changed(target)):
        if offer is not None and EMBEDDING in offer.tied and HEAD in offer.modules:
            yield ModelCase(target.path, config, ModelAdapter((EMBEDDING, HEAD)), dtype=target.dtypes[0])
            return


def _experts(target: ModelDraws, config: ConfigChoices) -> Iterator[ModelCase]:
    offer = target.offer(config)
    if offer is None:
        return
    modules, parameters = (
        tuple(one for one in ends if one.startswith("experts.") and one not in offer.around)
        for ends in (offer.modules, offer.parameters)
    )
    if modules or parameters:  # of a rank that ranks divide, and one with an alpha of its own
        first = (*parameters, *modules)[0]
        adapter = ModelAdapter(modules, parameters, rank=4, alpha=4.0, alphas=((first, 16.0),))
        yield ModelCase(target.path, config, adapter, dtype=target.dtypes[0])


def _plainest(target: ModelDraws) -> list[ModelCase]:
    """The plainest configuration with everything adapted, without and with what is no module's weight.

    The language model by itself follows, each of the latter, as of stacked experts one parameter is not found
    alone in a larger file, and a head that classifies, which the adapter holds whole. Layers are dealt out to
    stages where there are enough of them, and towers are whole on each rank where an option is on.
    """
    offer = target.offer(ConfigChoices())
    if offer is None:
        return []
    modules = offer.untied
    plain = tuple(one for one in modules if not offer.clash(one))
    parameters = tuple(one for one in offer.parameters if one not in offer.around)
    single = (ModelAdapter(parameters=(one,)) for one in offer.parameters)
    alone = [ModelAdapter(offer.alone)] if offer.alone else []
    heads = [ModelAdapter(plain[:1], saved=(one,)) for one in offer.saved if one in SAVED_HEADS]
    adapters = dict.fromkeys((ModelAdapter(modules), ModelAdapter(plain, parameters), *alone, *single, *heads))
    stages = STAGES if offer.layers >= STAGES else 1
    return [
        ModelCase(
            target.path,
            adapter=one,
            dtype=target.dtypes[0],
            options=options,
            deployment=COPIED if options else PLAIN,
            stages=stages,
        )
        for options in target.deployments
        for one in adapters
        if offer.modules
    ]


def _one_expert(target: ModelDraws) -> Iterator[ModelCase]:
    """Every projection of the first expert of a mixture, where each expert has modules of its own."""
    offer, each = target.offer(ConfigChoices()), f"experts.{ANY_NUMBER}."
    modules = tuple(one.replace(each, "experts.0.") for one in offer.modules if each in one) if offer else ()
    if modules:
        yield ModelCase(target.path, adapter=ModelAdapter(modules), dtype=target.dtypes[0])
