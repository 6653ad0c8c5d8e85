"""The law of the simulated world: probabilities are probabilities, and the exact PD is what brute force gives."""

import numpy as np
import pytest

from models.world import hazard


@pytest.mark.parametrize("month", [-1, 0, 26, 59, 110])
def test_every_row_of_the_law_is_a_distribution(month):
    law = hazard.law(month)
    for part in (law.stress, law.bucket):
        assert part.min() >= 0
        np.testing.assert_allclose(part.sum(axis=-1), 1, atol=1e-12)


def brute_force(kind_type, stress, bucket, clock, month, horizon):
    """Follow every path by a dictionary of (stress, bucket, clock) -> weight; clock 0 is a revolving line."""
    alive, defaulted = {(stress, bucket, clock): 1.0}, 0.0
    for ahead in range(horizon):
        law, after = hazard.law(month + ahead), {}
        for (z, b, left), weight in alive.items():
            for z2 in range(4):
                for b2 in range(5):
                    flow = weight * law.stress[kind_type, z, z2] * law.bucket[kind_type, z2, b, b2]
                    if b2 == 4:
                        defaulted += flow
                    elif left == 0:  # revolving: may leave when nothing is unpaid
                        stays = flow * (1 - hazard.LEAVE) if b2 == 0 else flow
                        after[z2, b2, 0] = after.get((z2, b2, 0), 0) + stays
                    elif left == 1 and b2 == 0:  # paid to the end: renews for at least a year, or leaves
                        after[z2, b2, 99] = after.get((z2, b2, 99), 0) + flow * hazard.RENEW
                    else:
                        place = (z2, b2, max(left - 1, 1))
                        after[place] = after.get(place, 0) + flow
        alive = after
    return defaulted


@pytest.mark.parametrize(
    ("stress", "bucket", "clock"), [(0, 0, 0), (3, 2, 0), (1, 0, 1), (2, 1, 5), (0, 0, 12), (1, 3, 13), (2, 0, 40)]
)
def test_the_recursion_equals_following_every_path(stress, bucket, clock):
    exact = hazard.exact_pd(17, 4)
    for kind_type in (3, 60):
        found = exact[2, kind_type, stress * 4 + bucket, min(clock, hazard.BEYOND)]
        assert found == pytest.approx(brute_force(kind_type, stress, bucket, clock, 19, 12), rel=1e-10)


def test_one_month_ahead_only_the_third_bucket_can_default():
    pd = hazard.exact_pd(0, 1, horizon=1)[0].reshape(hazard.TYPES, 4, 4, hazard.BEYOND + 1)
    assert pd[:, :, :3].max() == 0
    law = hazard.law(0)
    by_hand = (law.stress[5, 1] * law.bucket[5, :, 3, 4]).sum()
    assert pd[5, 1, 3, 7] == pytest.approx(by_hand, rel=1e-12)


def test_more_stress_and_more_arrears_are_more_risk_and_the_downturn_is_worse():
    pd = hazard.exact_pd(0, 40)[..., hazard.BEYOND].reshape(40, hazard.TYPES, 4, 4)
    assert (np.diff(pd, axis=2) > 0).all()
    assert (np.diff(pd, axis=3) > 0).all()
    assert (pd[24] > pd[0]).all()


def test_the_calendar_holds_one_season_a_year_and_a_downturn_in_spring_2023():
    assert hazard.season(0) == pytest.approx(1)
    assert hazard.season(12) == pytest.approx(hazard.season(0))
    assert hazard.downturn(26) == pytest.approx(1)
    assert hazard.downturn(0) < 0.01
    assert hazard.downturn(26 + 84) == pytest.approx(1)


def test_draw_takes_the_first_category_beyond_the_uniform():
    odds = np.array([[0.2, 0.3, 0.5]] * 4)
    assert hazard.draw(odds, np.array([0.0, 0.2, 0.4999, 0.99])).tolist() == [0, 1, 1, 2]
