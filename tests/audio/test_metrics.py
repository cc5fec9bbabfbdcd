import pickle
import sys

import numpy as np
import pytest

from dynse.audio.errors import MissingPackageError
from dynse.audio.metrics import MetricError, pesq_wb, si_sdr, stoi


def test_si_sdr_of_orthogonal_noise_is_the_power_ratio():
    t = np.arange(16000) / 16000
    s, n = np.sin(2 * np.pi * 440 * t), np.cos(2 * np.pi * 440 * t)
    for ratio in (-5.0, 0.0, 12.5):
        mixed = s + 10 ** (-ratio / 20) * n
        assert si_sdr(s, mixed) == pytest.approx(ratio, abs=1e-6)
        assert si_sdr(s, -3 * mixed) == pytest.approx(ratio, abs=1e-6)
    assert si_sdr(s, s) > 100


def test_undefined_scores_say_so():
    x = np.random.default_rng(0).standard_normal(16000)
    with pytest.raises(MetricError, match="not silent"):
        si_sdr(np.zeros(16000), x)
    with pytest.raises(MetricError, match="one length"):
        si_sdr(x, x[:-1])
    with pytest.raises(MetricError, match="PESQ is not defined"):
        pesq_wb(x[:100], x[:100])


def test_identity_is_the_best_score(speechlike):
    assert pesq_wb(speechlike, speechlike) == pytest.approx(4.64, abs=0.01)
    assert pesq_wb(speechlike, np.zeros_like(speechlike)) == 1.04
    assert stoi(speechlike, speechlike) == pytest.approx(1, abs=1e-3)
    assert stoi(speechlike, speechlike, extended=True) == pytest.approx(1, abs=1e-3)


def test_a_package_of_the_training_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(MissingPackageError, match=r"package pesq: pip install 'dynse\[train\]'"):
        pesq_wb(np.ones(16000), np.ones(16000))
    error = MissingPackageError("pesq")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
