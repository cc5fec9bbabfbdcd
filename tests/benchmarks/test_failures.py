"""The conditions of the known failures are what they say, and a run gives every figure."""

import csv
import json
import sys

import numpy as np
import pytest
import soundfile

from dynse.audio.mixing import active_level
from dynse.probes.targets import fundamental

failures = pytest.importorskip("dynse.benchmarks.failures", reason="not in the wheel")


@pytest.fixture(scope="module")
def talkers(speechlike):
    rng = np.random.default_rng(3)
    other = np.roll(speechlike, 9000)[:40000] * np.float32(0.3)
    noise = rng.standard_normal(len(speechlike)).astype(np.float32)
    return (
        failures.Source(speechlike, noise, "a", "female", "street"),
        failures.Source(other, noise[:40000], "b", "male", "nature"),
    )


def build(condition, talkers):
    return condition(np.random.default_rng(0), *talkers)


def power_in(x, rate, low, high):
    spectrum = np.abs(np.fft.rfft(x)) ** 2
    hertz = np.fft.rfftfreq(len(x), 1 / rate)
    return spectrum[(hertz >= low) & (hertz < high)].sum() / spectrum.sum()


@pytest.mark.parametrize("condition", failures.CONDITIONS)
def test_parts_fit_together_and_come_again(condition, talkers):
    take = build(condition, talkers)
    n = len(failures.to_model_rate(take.heard, take.rate))
    for part in (take.reference, take.speech, take.noise):
        assert part is None or (part.dtype, part.shape) == (np.float32, (n,))
    assert take.heard.dtype == np.float32
    assert np.array_equal(take.heard, build(condition, talkers).heard)


def test_control_has_the_ratio_it_says(talkers):
    take = build(failures.control, talkers)
    rms = np.sqrt(np.mean(take.noise**2))
    assert 20 * np.log10(active_level(take.reference) / rms) == pytest.approx(10, abs=0.01)
    np.testing.assert_allclose(take.heard - take.noise, talkers[0].clean, atol=1e-6)


def test_telephone_passes_its_band_and_nothing_above_4_khz(talkers):
    take = build(failures.telephone, talkers)
    assert take.rate == 8000
    assert len(take.heard) == len(talkers[0].clean) / 2
    assert power_in(take.reference, 16000, 4000, 8001) < 1e-6
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    line = failures.telephone_line(tone.astype(np.float32))
    # The step of mu-law is at most ln(256) / 127 of the value: 34 dB below it and better.
    assert np.abs(line - tone[::2])[500:-500].max() < 0.5 * np.log(256) / 127
    assert len(np.unique(line)) <= 255
    noise = np.random.default_rng(0).standard_normal(64000).astype(np.float32) * 0.1
    assert power_in(failures.telephone_line(noise), 8000, 0, 200) < 1e-3
    assert power_in(failures.telephone_line(noise), 8000, 3700, 4001) < 1e-3


def test_whisper_has_no_pitch_but_the_envelope(talkers):
    voice = talkers[0].clean
    whisper = failures.whispered(voice)
    assert active_level(whisper) == pytest.approx(active_level(voice), rel=1e-5)
    assert np.mean(fundamental(voice) > 0) > 0.3
    assert np.mean(fundamental(whisper) > 0) < 0.05
    levels = [[power_in(x, 16000, f, f + 500) for f in (250, 750, 1250)] for x in (voice, whisper)]
    np.testing.assert_allclose(*np.log10(levels), atol=0.3)


def test_talkers_overlap_at_equal_levels(talkers):
    take = build(failures.overlapping_talkers, talkers)
    assert active_level(take.noise) == pytest.approx(active_level(take.reference), rel=1e-5)
    np.testing.assert_allclose(take.heard, take.reference + take.noise, atol=1e-7)
    assert take.gender == ""
    same = failures.Source(talkers[1].clean, talkers[1].noise, "c", "female", "")
    assert build(failures.overlapping_talkers, (talkers[0], same)).gender == "female"


def test_room_decays_by_60_db_in_its_time(talkers):
    click = np.zeros(20000, np.float32)
    click[0] = 1.0
    one = failures.Source(click, 1e-9 * talkers[0].noise[:20000], "a", "", "")
    take = build(failures.reverberation, (one, one))
    response = take.heard - take.noise
    assert response[0] == pytest.approx(1, abs=1e-4)
    assert np.sum(response[1:] ** 2) == pytest.approx(1, abs=0.05)
    early, late = (np.mean(response[at : at + 1600] ** 2) for at in (800, 8800))
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=1.5)


def test_clipping_keeps_a_quarter_of_the_peak(talkers):
    heard, whole = (build(c, talkers).heard for c in (failures.clipping, failures.control))
    limit = np.abs(whole).max() * 10 ** (-12 / 20)
    assert np.abs(heard).max() == pytest.approx(limit, rel=1e-6)
    inside = np.abs(whole) < limit
    assert np.array_equal(heard[inside], whole[inside])
    assert 0 < np.mean(~inside) < 0.5


def test_music_is_tones(talkers):
    take = build(failures.music_alone, talkers)
    assert np.abs(take.heard).max() == pytest.approx(0.1)
    lowest, highest = 110.0, 110 * 2 ** (11 / 12) * 2 ** (33 / 12) * 8
    assert power_in(take.heard, 16000, lowest - 10, min(highest, 8001)) > 0.95
    assert take.reference is take.speech is None


def test_one_command_measures_tells_and_writes(
    talkers, checkpoint_path, probes_path, tmp_path, monkeypatch, capsys
):
    with (tmp_path / "test.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("name", "speaker", "gender", "noise_category"))
        for number, one in enumerate(talkers):
            table.writerow((f"{number}.wav", one.speaker, one.gender, one.category))
            for side, x in (("clean", one.clean), ("noisy", one.clean + 0.1 * one.noise)):
                (tmp_path / side).mkdir(exist_ok=True)
                soundfile.write(tmp_path / side / f"{number}.wav", x, 16000, subtype="FLOAT")
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- failures -->\nold\n<!-- end -->\nb\n")
    monkeypatch.setattr(sys.modules[failures.renew.__module__], "README", readme)
    arguments = [tmp_path, "--model", checkpoint_path, "--probes", probes_path]
    arguments += ["--json", tmp_path / "f.json", "--readme"]
    monkeypatch.setattr(sys, "argv", ["x", *map(str, arguments)])
    failures.main()
    report = json.loads((tmp_path / "f.json").read_text())
    assert list(report["conditions"]) == [c.__name__.replace("_", " ") for c in failures.CONDITIONS]
    for name, part in report["conditions"].items():
        scored = name != "music alone"
        for side in ("noisy", "enhanced"):
            assert all((x is not None) == scored for x in part[side].values()), name
        assert part["files"] == sum(part["probes"]["gender"].values()) == 2
        assert 0 <= part["probes"]["vad_accuracy"] <= 1
    assert report["conditions"]["control"]["probes"]["snr_true_db"] == pytest.approx(10, abs=1.5)
    shown = capsys.readouterr().out.rstrip("\n")
    assert readme.read_text() == f"a\n<!-- failures -->\n{shown}\n<!-- end -->\nb\n"
