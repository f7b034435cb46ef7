"""What ``import bipcore`` gives."""

import pytest

import bipcore


def test_every_name_it_offers_is_there():
    assert set(bipcore.__all__) <= set(dir(bipcore))
    for name in bipcore.__all__:
        assert getattr(bipcore, name) is not None, name


def test_a_name_that_it_does_not_offer_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'bipcore' has no attribute 'prune'"):
        bipcore.prune  # noqa: B018
