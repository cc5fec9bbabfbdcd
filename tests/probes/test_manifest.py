import numpy as np
import pytest
import soundfile

from dynse.audio.corpus import CorpusError
from dynse.models.stream import Stream
from dynse.probes.fit import fit_probes
from dynse.probes.manifest import load_manifest
from dynse.probes.probe_file import load_probes
from dynse.probes.reading import ProbeReader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Loud and soft hiss or rumble under a tone: the ratio is a column, the kind another."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("own")
    rows = ["path,tone_db,colour,split"]
    t = np.arange(24000) / 16000
    for number in range(36):
        split = ("train", "train", "valid", "test")[number % 4]
        x = rng.standard_normal(len(t))
        colour = "dark" if number % 3 else "bright"
        x = np.cumsum(x) / 30 if colour == "dark" else np.diff(x, prepend=0.0)
        level = -6 * (number % 5)
        tone = sum(np.sin(2 * np.pi * 200 * k * t) for k in range(1, 12))
        x = x / x.std() + 10 ** (level / 20) * tone * (np.sin(2 * np.pi * 3 * t) > 0)
        soundfile.write(folder / f"{number}.wav", 0.05 * x / x.std(), 16000)
        rows.append(f"{number}.wav,{level if number else ''},{colour},{split}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


def test_numbers_are_values_and_words_are_classes(folder):
    manifest = load_manifest(folder)
    assert [(t.name, t.kind) for t in manifest.tasks] == [("tone_db", "value"), ("colour", "class")]
    assert manifest.classes == {"colour": ["bright", "dark"]}
    counts = manifest.counts("train")
    assert counts == {
        "recordings": 18,
        "tone_db": "17 values",
        "colour": {"bright": 6, "dark": 12},
    }


def test_probes_of_own_columns_beat_their_baselines_and_are_read(folder, tmp_path, engine):
    path = tmp_path / "own.safetensors"
    report = fit_probes(folder, engine, path, count=64)
    assert report.header["held_out"] == "test"
    held = report.scores["colour"]["held_out"]
    assert held["accuracy"] > max(held["baseline_accuracy"], 0.9)
    held = report.scores["tone_db"]["held_out"]
    assert held["mae"] < held["baseline_mae"]
    probes = load_probes(path)
    assert [probe.name for probe in probes.probes] == ["tone_db", "colour"]
    right = []
    for number in (3, 7, 11, 15, 19, 23):
        x, _ = soundfile.read(folder / f"{number}.wav", dtype="float32")
        reader = ProbeReader(probes, engine)
        stream = Stream(engine, listener=reader)
        stream.feed(x)
        stream.flush()
        reading = reader.finish(len(x) / 16000)
        assert np.isfinite(reading.values["tone_db"])
        right.append(reading.classes["colour"][0] == ("dark" if number % 3 else "bright"))
    assert sum(right) >= 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,x\na.wav,1", "no column path"),
        ("path,split\na.wav,train", "no target columns beside path, split"),
        ("path,x\nnowhere.wav,1", "no such file 'nowhere.wav'"),
        ("path,x,split\na.wav,1,dev", "unknown split 'dev'; known ones are train, valid, test"),
        ("path,x,split\na.wav,1,test", "no recording in the split 'train'"),
    ],
)
def test_tables_that_cannot_be_used_say_why(tmp_path, text, reason):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(CorpusError, match=reason):
        load_manifest(tmp_path)


def test_a_group_stays_on_one_side(tmp_path):
    rows = ["path,group,x"]
    for number in range(40):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(100), 16000)
        rows.append(f"{number}.wav,g{number % 10},{number}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    splits = {}
    for row in load_manifest(tmp_path).rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert load_manifest(tmp_path.parent / "nothing") is None
