"""Pieces of features' ranges: where they lie, what a kernel's place in them says, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from predictor.errors import CheckpointRejected
from predictor.kernel_costs.bins import Bins
from predictor.kernel_costs.features import FEATURE_COUNT
from predictor.kernel_costs.network import CostNetwork, Member, from_arrays, to_arrays
from predictor.meta_checkpoint import MetaCheckpoint
from tests.predictor.synthetic_target import synthetic_meta, synthetic_network


def rows() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """A thousand kernels with three features: even values, a flag, and one that is mostly nothing."""
    even = np.linspace(0.0, 10.0, 1000)
    return np.stack([even, even > 5, np.maximum(even - 9.0, 0.0)], axis=1).astype(np.float32)


def test_pieces_hold_as_many_kernels_each_and_flags_have_none() -> None:
    bins = Bins.of(rows(), 4)
    assert bins.fields.tolist() == [0, 0, 0, 0, 2]  # three quarters of the last one's are nothing
    np.testing.assert_allclose(bins.starts, [0.0, 2.5, 5.0, 7.5, 0.0], atol=1e-5)
    np.testing.assert_allclose(bins.widths, [2.5, 2.5, 2.5, 2.5, 1.0], atol=1e-5)
    assert len(Bins.of(rows(), 0)) == len(Bins.of(rows()[:, 1:2], 4)) == 0


def test_a_kernel_has_come_through_the_pieces_before_it() -> None:
    bins = Bins.of(rows(), 4)
    asked = np.array([[-3.0, 0.0, 0.0], [6.25, 1.0, 0.5], [99.0, 1.0, 99.0]], np.float32)
    encoded = bins.encoded(asked)
    np.testing.assert_array_equal(encoded[:, :3], asked)
    expected = [[-1, -1, -1, -1, -1], [1, 1, 0, -1, 0], [1, 1, 1, 1, 1]]
    np.testing.assert_allclose(encoded[:, 3:], expected, atol=1e-5)
    assert Bins.none().encoded(asked) is asked


def with_bins(bins: Bins) -> CostNetwork:
    """A network whose layers take these pieces behind the features."""
    plain = synthetic_network(members=2)
    more = np.random.default_rng(1).normal(size=(len(bins), plain.members[0].weights[0].shape[1]))
    return CostNetwork(
        tuple(
            Member((np.concatenate([one.weights[0], more.astype(np.float32)]), *one.weights[1:]), one.biases)
            for one in plain.members
        ),
        bins,
    )


def some_bins(*, field: int = 7, start: float = 0.5, width: float = 0.25) -> Bins:
    return Bins(np.array([field]), np.array([start], np.float32), np.array([width], np.float32))


def test_a_network_takes_features_with_their_pieces_and_keeps_them_in_its_arrays() -> None:
    network = with_bins(some_bins())
    asked = np.random.default_rng(0).uniform(size=(20, FEATURE_COUNT)).astype(np.float32)
    said = network.log_factors(asked)
    alone = [member.log_factors(network.bins.encoded(asked)) for member in network.members]
    np.testing.assert_allclose(said, np.mean(alone, axis=0), rtol=1e-5, atol=1e-6)
    assert not np.allclose(said, synthetic_network(members=2).log_factors(asked))
    again = from_arrays(to_arrays(network), members=2, layers=3)
    np.testing.assert_array_equal(again.log_factors(asked), said)
    np.testing.assert_array_equal(network.of_sources([2, 0]).log_factors(asked), said[:, [2, 0]])


def test_a_checkpoint_keeps_pieces() -> None:
    plain = synthetic_meta()
    facts = plain.facts.model_copy(update={"members": 2})
    checkpoint = replace(plain, facts=facts, network=with_bins(some_bins()))
    again = MetaCheckpoint.from_bytes(checkpoint.to_bytes())
    assert again.to_bytes() == checkpoint.to_bytes()
    assert again.network.bins.fields.tolist() == [7]


@pytest.mark.parametrize(
    "bins",
    [
        some_bins(field=FEATURE_COUNT), some_bins(field=-1), some_bins(start=np.nan), some_bins(start=1e9),
        some_bins(width=0.0), some_bins(width=-1.0), some_bins(width=np.inf),
        Bins(np.array([1, 2]), np.zeros(2, np.float32), np.ones(1, np.float32)),
    ],
)  # fmt: skip
def test_pieces_of_nothing_are_refused(bins: Bins) -> None:
    plain = synthetic_meta()
    facts = plain.facts.model_copy(update={"members": 2})
    damaged = replace(plain, facts=facts, network=with_bins(bins))
    with pytest.raises(CheckpointRejected, match=f"{len(bins)} pieces of its features"):
        MetaCheckpoint.from_bytes(damaged.to_bytes())
