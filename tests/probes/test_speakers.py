import numpy as np
import pytest

from dynse.probes.speakers import equal_error_rate, fit_backend, trials, verify


def speakers(rng, count, each, spread, first=0):
    centres = rng.standard_normal((count, 30))
    nuisance = np.zeros(30)
    nuisance[0] = 8.0  # a channel that says nothing about who speaks, but varies most
    x = np.repeat(centres, each, axis=0) + spread * rng.standard_normal((count * each, 30))
    x += nuisance * rng.standard_normal((count * each, 1))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, [f"s{first + k // each}" for k in range(count * each)]


def test_equal_error_rate_of_known_scores():
    target = np.array([True, True, False, False])
    assert equal_error_rate(np.array([4.0, 3, 2, 1]), target) == 0
    assert equal_error_rate(np.array([1.0, 2, 3, 4]), target) == 1
    assert equal_error_rate(np.array([4.0, 2, 3, 1]), target) == 0.5
    rng = np.random.default_rng(0)
    # Two normals two deviations apart: EER = Phi(-1) = 0.1587.
    scores = np.concatenate([rng.standard_normal(40000) + 2, rng.standard_normal(40000)])
    eer = equal_error_rate(scores, np.arange(80000) < 40000)
    assert eer == pytest.approx(0.1587, abs=0.005)


def test_backend_removes_what_varies_within_speakers():
    rng = np.random.default_rng(0)
    train, test = speakers(rng, 60, 8, 0.3), speakers(rng, 20, 8, 0.3, first=100)
    raw = equal_error_rate(*trials(test[0], test[1], 1))
    found = verify(train, test)
    assert found[1]["eer"] < 0.1 < raw
    assert found[3]["eer"] <= found[1]["eer"] + 0.01
    assert found[1]["trials"] == 20 * 7 * 11


def test_chance_is_chance():
    rng = np.random.default_rng(0)
    train, test = ((rng.standard_normal((200, 10)), [f"{k % 20}" for k in range(200)]),) * 2
    test = rng.standard_normal((200, 10)), train[1]
    assert verify(train, test)[1]["eer"] == pytest.approx(0.5, abs=0.06)


def test_too_few_speakers_are_refused():
    with pytest.raises(ValueError, match="two speakers"):
        fit_backend(np.eye(3), ["a", "a", "b"])
