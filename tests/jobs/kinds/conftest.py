"""Fixtures of the tests of this room."""

import pytest


@pytest.fixture
def published(golden):
    """The golden network's weights, as a published checkpoint holds them."""
    return golden.formula_weights(golden.facts("unet_uncond32")["state_dict"])
