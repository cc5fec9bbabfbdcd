import numpy as np
import pytest

confidence = pytest.importorskip("dynse.benchmarks.confidence", reason="not in the wheel")
Sound = confidence.Sound
NOTHING = np.zeros(0, np.float32)


def said(figures=False, gender=None, noise=None):
    return {"figures": figures, "gender": gender, "noise": noise}


def test_figures_of_what_does_not_speak_are_counted_and_names_compared():
    noise = Sound("noise", NOTHING, False, None, "street")
    unlabelled = Sound("noise", NOTHING, False, None, "")
    rows = [
        (noise, said(True, "male", "street")),
        (noise, said(noise="office")),
        (noise, said()),
        (unlabelled, said(noise="street")),
    ]
    assert confidence.counts(rows) == ["4", "1 with", "", "1 / 1"]


def test_voices_without_figures_are_counted():
    voice = Sound("voice", NOTHING, True, "female")
    rows = [(voice, said(True, "female")), (voice, said(True, "male")), (voice, said())]
    assert confidence.counts(rows) == ["3", "1 without", "1 / 1", ""]
