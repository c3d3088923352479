"""Limits and orders of latencies that are known as intervals."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.latency.ranking import Fits, Latency, fits_below, overlaps, ranked

milliseconds = st.floats(min_value=1e-3, max_value=1e4)


@st.composite
def latencies(draw: st.DrawFn) -> Latency:
    lower, median, upper = sorted(draw(st.tuples(milliseconds, milliseconds, milliseconds)))
    return Latency(median, lower, upper) if draw(st.booleans()) else Latency(median, None, None)


@pytest.mark.parametrize(
    ("limit_ms", "fits"), [(2.1, "yes"), (2.0, "uncertain"), (1.5, "uncertain"), (1.0, "no"), (0.9, "no")]
)
def test_the_whole_interval_decides_about_a_limit(limit_ms: float, fits: str) -> None:
    assert fits_below(Latency(1.4, 1.0, 2.0), limit_ms) is Fits(fits)
    assert fits_below(Latency(1.4, None, None), limit_ms) is Fits.UNCERTAIN


@given(latencies(), milliseconds, milliseconds)
def test_a_looser_limit_never_turns_yes_into_no(latency: Latency, one_ms: float, other_ms: float) -> None:
    order = [Fits.NO, Fits.UNCERTAIN, Fits.YES]
    tight, loose = sorted((one_ms, other_ms))
    assert order.index(fits_below(latency, tight)) <= order.index(fits_below(latency, loose))
    if latency.lower_ms is not None and fits_below(latency, tight) is Fits.YES:
        assert latency.median_ms < tight  # the order of medians never contradicts a certain verdict


@given(st.lists(st.none() | latencies(), max_size=12), st.randoms(use_true_random=False))
def test_an_order_has_every_latency_once_and_does_not_depend_on_how_they_came(
    given_latencies: list[Latency | None], random: object
) -> None:
    places = ranked(given_latencies)
    assert sorted(place.index for place in places) == [
        index for index, latency in enumerate(given_latencies) if latency is not None
    ]
    medians = [given_latencies[place.index].median_ms for place in places]  # type: ignore[union-attr]
    assert medians == sorted(medians)
    shuffled = list(given_latencies)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = [shuffled[place.index].median_ms for place in ranked(shuffled)]  # type: ignore[union-attr]
    assert again == medians


@given(st.lists(latencies(), min_size=1, max_size=12))
def test_neighbours_overlap_exactly_where_their_intervals_share_a_value(known: list[Latency]) -> None:
    places = ranked(known)
    assert places[-1].overlaps_next is None
    for place, follower in pairwise(places):
        faster, slower = known[place.index], known[follower.index]
        if faster.upper_ms is None or slower.lower_ms is None:
            assert place.overlaps_next is None
        else:
            # the medians are in order, so the intervals are apart only if the faster ends before the other
            assert place.overlaps_next is (faster.upper_ms >= slower.lower_ms)
        assert overlaps(faster, slower) is overlaps(slower, faster)


def test_equal_medians_stay_in_the_order_they_were_given() -> None:
    same = Latency(1.0, 0.9, 1.1)
    assert [place.index for place in ranked([same, None, same, same])] == [0, 2, 3]
    assert ranked([None, None]) == ()
