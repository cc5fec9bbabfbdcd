"""The pieces are music, played in time; what is said of them is counted."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

instruments = pytest.importorskip("dynse.benchmarks.instruments", reason="not in the wheel")


def test_the_seed_decides():
    first, again, other = (instruments.pieces(seed) for seed in (1, 1, 2))
    assert first == again
    assert first.keys() == other.keys()
    assert sum(first[name][1] != other[name][1] for name in first) == len(first) == 180


def test_every_note_begins_and_ends_in_time():
    for name, (programs, events) in instruments.pieces().items():
        assert all(0 <= program < 120 for program in programs.values())
        open_now = {}
        for at, begins, channel, key, velocity in sorted(events):
            assert 0 <= at <= instruments.SECONDS
            assert channel in programs or (channel == 9 and name.startswith("band"))
            assert 20 <= key < 110
            assert (velocity > 0) == begins
            count = open_now.get((channel, key), 0) + (1 if begins else -1)
            assert count >= 0, name
            open_now[channel, key] = count
        assert not any(open_now.values())
        assert len(events) > 10


def test_a_note_sounds_from_its_time_on(monkeypatch, tmp_path):
    class Synth:
        """A click at full scale wherever a note begins."""

        def __init__(self, samplerate):
            assert samplerate == instruments.FONT_RATE
            self.struck = 0.0

        def sfload(self, path):
            return 0

        def program_select(self, *which):
            pass

        def noteon(self, channel, key, velocity):
            self.struck = 1.0

        def noteoff(self, channel, key):
            pass

        def generate(self, count):
            block = np.zeros((count, 2), np.float32)
            block[:20] = self.struck
            self.struck = 0.0
            return memoryview(block.tobytes())

    monkeypatch.setitem(sys.modules, "tinysoundfont", SimpleNamespace(Synth=Synth))
    events = [(1.0, True, 0, 60, 90), (2.0, False, 0, 60, 0), (4.5, True, 0, 62, 90)]
    sound = instruments.play(tmp_path / "font", {0: 5}, events)
    assert len(sound) == 9 * 16000
    assert np.abs(sound).max() == pytest.approx(0.4)
    loud = np.flatnonzero(np.abs(sound) > 0.2) / 16000
    assert loud.min() == pytest.approx(1.0, abs=0.002)
    assert loud.max() == pytest.approx(4.5, abs=0.002)


def test_what_is_said_is_counted():
    nothing = {"speech": 0.0, "figures": False, "gender": None, "noise": None}
    rows = {
        "piano/0": {**nothing, "speech": 0.5, "figures": True, "gender": "male"},
        "piano/1": {**nothing, "speech": 0.05, "noise": "street"},
        "band/0": nothing,
    }
    lines = instruments.tables(rows).splitlines()
    assert lines[2] == "| piano | 2 | 1 | 1 | 1 | 1 |"
    assert lines[-2] == "| band | 1 | 0 | 0 | 0 | 0 |"
    assert lines[-1] == "| **all** | 3 | 1 | 1 | 1 | 1 |"
