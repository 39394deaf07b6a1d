"""A job of torchrun whose rank 1 never comes back; rank 0 prints what the engine says."""

from __future__ import annotations

import os
import time

import torch

from conformance.engines.ranks import RankGroup, RankHung
from conformance.engines.torchrun import join


def hangs(group: RankGroup) -> None:
    """Rank 1 does."""
    if group.rank == 1:
        time.sleep(600)
    group.all_reduce(torch.ones(1))


if __name__ == "__main__":
    engine = join("cpu")
    assert engine is not None
    engine._watchdog = 0.5
    try:
        engine.run(2, hangs)
    except RankHung as error:
        print(error, flush=True)
    os._exit(1)
