"""The README's examples are run, so that they stay true."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_python_example_runs(speechlike):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"noisy": speechlike, "sample_rate": 16000, "block": speechlike[:1000]}
    exec(example, names)
    assert names["clean"].shape == speechlike.shape
    assert len(names["out"]) + len(names["rest"]) == 1000


def test_ci_installs_and_tests_as_the_readme_says():
    commands = re.findall(r"```sh\n(.*?)\n```", README)
    assert len(commands) == 2
    install, test = (part.strip() for part in commands[1].split("&&")[1:])
    assert "-c constraints.txt -e '.[dev]'" in install
    assert "-c constraints.txt -e '.[dev]'" in (ROOT / ".ci/run").read_text()
    assert test.endswith("python -m pytest")
    assert "python -m pytest" in (ROOT / "scripts/check").read_text()


@pytest.mark.parametrize("command", ["enhance", "train", "evaluate", "models"])
def test_commands_are_described(command):
    assert f"dynse {command}" in README


def test_samples_are_what_their_table_says():
    import csv

    from dynse.audio.mixing import active_level
    from dynse.models.evaluation import load_mono

    with (ROOT / "samples/samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 6
    for row in rows:
        clean, noisy = (
            load_mono(next((ROOT / "samples" / kind).glob(row["name"] + ".*")))
            for kind in ("clean", "noisy")
        )
        assert clean.shape == noisy.shape
        if row["snr_db"]:
            noise = noisy - clean
            ratio = active_level(clean) / np.sqrt(np.mean(noise**2))
            assert 20 * np.log10(ratio) == pytest.approx(float(row["snr_db"]), abs=0.3)


def test_shipped_model_cleans_a_sample(tmp_path):
    """The README's first command, by the numbers: SI-SDR rises on a sample it never saw."""
    import sys

    from dynse.audio.metrics import si_sdr
    from dynse.models.evaluation import load_mono

    noisy = ROOT / "samples/noisy/rain_female.wav"
    command = [sys.executable, "-m", "dynse", "enhance", str(noisy), "-o"]
    subprocess.run([*command, str(tmp_path / "clean.wav")], check=True, capture_output=True)
    clean = load_mono(ROOT / "samples/clean/rain_female.wav")
    before, after = (si_sdr(clean, load_mono(path)) for path in (noisy, tmp_path / "clean.wav"))
    assert after > before + 4


def test_shipped_gates_follow_difficulty():
    """The same voices in the same noises: the louder the noise, the more of the network runs."""
    from dynse.audio.mixing import mix_at_snr
    from dynse.audio.stft import analyse
    from dynse.models.engine import load
    from dynse.models.evaluation import load_mono, speech_frames

    engine = load()
    names = ("rain_female", "hiss_female", "engine_male", "keyboard_male", "hum_male")
    used, apart = np.zeros((2, 3, len(names)))
    for i, name in enumerate(names):
        clean, noisy = (load_mono(ROOT / f"samples/{k}/{name}.wav") for k in ("clean", "noisy"))
        speech = speech_frames(clean)
        for k, snr_db in enumerate((-5, 5, 15)):
            frames = analyse(mix_at_snr(clean, noisy - clean, snr_db)[0])
            share = engine.step(frames, engine.initial_state())[1].mean(axis=(1, 2))
            used[k, i] = share.mean()
            apart[k, i] = share[~speech].mean() / share[speech].mean()
    assert (np.diff(used.mean(axis=1)) < -0.02).all()
    assert apart[0].mean() < 0.8, "in hard noise, pauses get less than speech"
    assert apart[2].mean() < 0.7
