import numpy as np
import pytest

from dynse.audio.metrics import si_sdr
from dynse.audio.stft import HOP, frame_count
from dynse.probes import targets

RATE = 16000


def tone(frequency, seconds, amplitude=0.1):
    t = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * frequency * t)).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 16000])
def test_all_targets_are_on_the_frame_grid(n):
    x = tone(200, 1)[:n]
    noise = 0.01 * np.random.default_rng(0).standard_normal(n).astype(np.float32)
    frames = frame_count(n)
    assert len(targets.frame_rms(x)) == frames
    assert len(targets.voice_activity(x)) == frames
    assert len(targets.snr(x, noise)) == frames
    assert len(targets.si_sdr_track(x, x + noise)) == frames
    assert len(targets.fundamental(x)) == frames


def test_moving_average_of_a_line_is_the_line():
    x = np.arange(20.0)
    np.testing.assert_allclose(targets.moving_average(x, 5), x + np.r_[1, 0.5, [0] * 16, -0.5, -1])
    np.testing.assert_allclose(targets.moving_average(np.c_[x, -x], 3)[1:-1], np.c_[x, -x][1:-1])


def test_rms_and_snr_of_sines_are_known():
    speech, noise = tone(1000, 1, 0.2), tone(3000, 1, 0.02)
    np.testing.assert_allclose(targets.frame_rms(speech)[2:-2], 0.2 / np.sqrt(2), rtol=1e-4)
    np.testing.assert_allclose(targets.snr(speech, noise)[2:-2], 20.0, atol=1e-3)
    assert (targets.snr(speech, 0 * noise)[2:-2] == 30).all()
    assert (targets.snr(0 * speech, noise) == -50).all()
    assert (targets.snr(0 * speech, 0 * noise) == -50).all()


def test_voice_activity_is_where_the_bursts_are():
    x = np.zeros(4 * RATE, np.float32)
    x[RATE : 2 * RATE] = tone(200, 1)
    x[2 * RATE + 800 : 3 * RATE] = tone(200, 0.95)  # a gap of 50 ms is closed
    x[3 * RATE + 8000 : 3 * RATE + 8160] = tone(200, 0.01, 0.01)  # a click is dropped
    active = targets.voice_activity(x)
    edges = np.flatnonzero(np.diff(active.astype(int))) * HOP / RATE
    np.testing.assert_allclose(edges, [1.0, 3.0], atol=0.06)
    assert not targets.voice_activity(np.zeros(RATE, np.float32)).any()
    assert not targets.voice_activity(tone(200, 1, 1e-3), level=0.1).any()


def test_si_sdr_of_orthogonal_sines_is_their_power_ratio():
    # Whole periods in any window of a second: orthogonal and free of mean.
    speech, noise = tone(200, 4, 0.1), tone(300, 4, 0.01)
    track = targets.si_sdr_track(speech, 3.0 * (speech + noise))
    np.testing.assert_allclose(track[70:-70], 20.0, atol=0.01)
    assert np.isnan(targets.si_sdr_track(0 * speech, noise)).all()
    assert np.nanmax(targets.si_sdr_track(speech, speech)) == 30.0


def test_upsampling_is_a_normalised_squared_hann_window():
    assert targets.to_frames(np.full(20, 7.0), 1.0, 200)[:190] == pytest.approx(7.0)
    values = np.full(20, np.nan)
    values[8] = 3.0
    track = targets.to_frames(values, 1.0, 300)
    reached = np.flatnonzero(np.isfinite(track)) * HOP / RATE
    assert reached.min() == pytest.approx(1.5, abs=0.04)
    assert reached.max() == pytest.approx(2.5, abs=0.04)
    values = np.zeros(20)
    values[8] = 1.0  # centred on 2.0 s = frame 125, where its weight is 1 of 1 + 2 / 4 + 0
    assert targets.to_frames(values, 1.0, 300)[125] == pytest.approx(1 / 1.5)


def test_pesq_of_an_untouched_signal_is_its_maximum(speechlike):
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(speechlike)).astype(np.float32)
    same = targets.pesq_track(speechlike, speechlike)
    noisy = targets.pesq_track(speechlike, speechlike + noise)
    assert len(same) == frame_count(len(speechlike))
    assert np.nanmin(same) == pytest.approx(4.64, abs=0.01)
    assert 1.0 < np.nanmean(noisy) < 2.0
    silent = np.zeros(len(same), bool)
    assert np.isnan(targets.pesq_track(speechlike, speechlike, silent)).all()


@pytest.mark.parametrize("frequency", [100.0, 210.0])
def test_f0_of_harmonics_is_their_spacing(frequency):
    x = np.zeros(2 * RATE, np.float32)
    for k in range(1, 15):
        x[:RATE] += tone(frequency * k, 1, 0.1 / k)
    f0 = targets.fundamental(x)
    voiced = f0[10:50]
    np.testing.assert_allclose(voiced[voiced > 0], frequency, rtol=0.01)
    assert (voiced > 0).mean() > 0.9
    assert not f0[75:].any()


def test_f0_in_pieces_is_that_of_the_whole(monkeypatch):
    x = np.concatenate([sum(tone(f * k, 1, 0.1 / k) for k in range(1, 9)) for f in (120, 180, 150)])
    whole = targets.fundamental(x)
    monkeypatch.setattr(targets, "_F0_PIECE_S", 1.0)
    pieces = targets.fundamental(x)
    both = (whole > 0) & (pieces > 0)
    assert both.mean() > 0.9
    np.testing.assert_allclose(pieces[both], whole[both], rtol=0.02)


def test_snr_and_si_sdr_of_scenes_are_those_of_their_samples():
    rng = np.random.default_rng(0)
    clean = (1000 * rng.standard_normal(40 * 256)).astype(np.int16)
    clean[: 12 * 256] = 0  # a scene without speech
    noise = (rng.standard_normal(40 * 256) * np.repeat([10, 100], 20 * 256)).astype(np.int16)
    scene = np.repeat(np.array([0, 1, -1, 2], np.int32), [12, 8, 4, 17])
    snr_db, si_sdr_db = targets.of_scenes(clean, clean.astype(np.int32) + noise, scene)
    for found in (snr_db, si_sdr_db):
        assert np.isnan(found[[0, 11, 20, 23]]).all()
        assert len(set(found[12:20])) == len(set(found[24:])) == 1
        assert found[12] == pytest.approx(40, abs=0.5)
        assert found[24] == pytest.approx(20, abs=0.5)
    part = slice(24 * 256, None)
    expected = si_sdr(clean[part], clean[part].astype(int) + noise[part])
    assert si_sdr_db[24] == pytest.approx(expected, abs=1e-4)
