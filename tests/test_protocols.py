import numpy as np
import pytest

from experiments import protocols
from experiments.cli import UserError

STANDARD, PAPER = protocols.PROTOCOLS["standard"], protocols.PROTOCOLS["paper"]


def test_the_papers_images():
    np.testing.assert_array_equal(PAPER.draws["pgd"](10_000, 10).indices[:5], [7653, 7865, 3226, 5912, 8237])
    assert [len(PAPER.draws[measure](10_000, 10).indices) for measure in ("pgd", "aai", "bound", "tradeoff")] == [200, 200, 100, 5]


@pytest.mark.parametrize(("seed", "kept"), [(99, slice(200)), (52, slice(37, 42))])
def test_the_papers_draws_in_their_order(seed, kept):
    """One generator: a permutation, then the targets' shifts, then the noise."""
    drawn = protocols.authors_draw(seed, kept, 500, 9)
    np.random.seed(seed)
    indices = np.random.permutation(500)[kept]
    shifts = 1 + np.random.choice(8, len(indices))
    noise = np.random.uniform(-0.1, 0.1, (len(indices), 4, 4, 1))
    np.testing.assert_array_equal(drawn.indices, indices)
    np.testing.assert_array_equal(drawn.shifts, shifts)
    for _ in range(2):  # asked again, it is the same
        np.testing.assert_allclose(0.1 * drawn.noise((4, 4, 1)), noise, atol=1e-8)


def test_a_drawn_target_is_never_the_label():
    shifts = protocols.authors_draw(99, slice(200), 10_000, 10).shifts
    assert set(shifts) == set(range(1, 10))


def test_choosing_examples():
    np.testing.assert_array_equal(protocols.drawn(STANDARD, "pgd", 50, 10, 7).indices, np.arange(7))
    assert len(protocols.drawn(STANDARD, "pgd", 5000, 10, None).indices) == 5000
    assert len(protocols.drawn(STANDARD, "bound", 5000, 10, None).indices) == 200
    for protocol, n, message in (
        (PAPER, 10, "its own images"),
        (STANDARD, 51, r"must be in 1\.\.50"),
        (STANDARD, 0, r"must be in 1\.\.50"),
    ):
        with pytest.raises(UserError, match=message):
            protocols.drawn(protocol, "pgd", 50, 10, n)


def test_every_measure_has_its_examples_under_every_protocol():
    from experiments.measures import MEASURES

    for protocol in protocols.PROTOCOLS.values():
        assert set(protocol.draws) == set(MEASURES)


def test_unknown_protocol():
    with pytest.raises(UserError, match="unknown protocol 'weak': choose one of standard, paper"):
        protocols.find("weak")
