from __future__ import annotations

import pytest

from tests.fleets.checkouts import Checkout


@pytest.fixture
def two(tmp_path) -> tuple[Checkout, Checkout]:
    """Two checkouts."""
    return Checkout.at(tmp_path / "one"), Checkout.at(tmp_path / "two")
