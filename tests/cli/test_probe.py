import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import soundfile

from dynse.cli.app import _run
from dynse.cli.report import CSV_COLUMNS, SCHEMA_FILE
from dynse.probes.probe_file import save_probes

SCHEMA = json.loads(SCHEMA_FILE.read_text())
jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.fixture
def run(checkpoint_path, probes_path, capsys):
    def run(*arguments, probes=True):
        own = ["--model", str(checkpoint_path)]
        own += ["--probes", str(probes_path)] if probes else []
        code = _run(["probe", *map(str, arguments), *own])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def folder(tmp_path, speechlike):
    soundfile.write(tmp_path / "a b.wav", speechlike, 16000, subtype="PCM_24")
    stereo = np.stack([speechlike, 0.5 * speechlike], 1)
    soundfile.write(tmp_path / "é.flac", np.repeat(stereo, 2, axis=0), 32000)
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "short.wav", 0.1 * np.ones(1), 16000)
    (tmp_path / "text.wav").write_text("no sound")
    return tmp_path


def strict(text):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("frames", [False, True])
def test_every_report_follows_the_schema(run, folder, frames):
    code, out, err = run(folder, "--json", *(["--frames"] if frames else []))
    assert code == 1
    reports = {Path(r["path"]).name: r for r in strict(out)}
    assert len(reports) == 6
    for report in reports.values():
        jsonschema.validate(report, SCHEMA)
        assert ("frames" in report) == (frames and report["status"] == "ok")
    failed = reports["text.wav"]
    assert failed["status"] == "error"
    assert failed["error"]["code"]
    assert "text.wav: " in err
    heard = reports["a b.wav"]
    assert heard["audio"]["subtype"] == "PCM_24"
    assert heard["audio"]["duration_s"] == 3.0
    assert heard["compute"]["frames"] == 189
    assert reports["é.flac"]["audio"]["channels"] == 2
    assert {w["code"] for w in reports["silence.wav"]["warnings"]} == {"silence"}
    assert reports["silence.wav"]["noise"] == {"label": None, "probabilities": {}}
    assert {w["code"] for w in reports["empty.wav"]["warnings"]} == {"empty", "narrowband"}
    for name in ("silence.wav", "empty.wav"):
        assert reports[name]["snr_db"] == {"input": None, "enhanced": None}
        assert reports[name]["vad"]["segments"] == []
        assert reports[name]["f0_hz"]["median"] is None
    if frames:
        for track in ("vad", "snr_db", "noise", "f0_hz", "utilisation"):
            assert len(heard["frames"][track]) == 189


def test_one_input_is_an_object_and_jsonl_a_line_each(run, folder):
    code, out, _ = run(folder / "a b.wav", "--json")
    assert code == 0
    assert isinstance(strict(out), dict)
    code, out, _ = run(folder / "a b.wav", folder / "é.flac", "--jsonl", "-q")
    assert code == 0
    lines = [strict(line) for line in out.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["a b.wav", "é.flac"]


def test_table_and_csv(run, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = run(folder / "a b.wav")
    assert code == 0
    assert "SNR" in out
    assert "a b.wav" in out
    _, out, _ = run(folder, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 6
    assert tuple(rows[0]) == CSV_COLUMNS
    assert {row["status"] for row in rows} == {"ok", "error"}


def test_segments_for_other_programs(run, folder):
    report = strict(run(folder / "a b.wav", "--json")[1])
    segments = report["vad"]["segments"]
    assert segments
    rttm = run(folder / "a b.wav", "--rttm")[1].splitlines()
    assert len(rttm) == len(segments)
    assert rttm[0].split()[:3] == ["SPEAKER", "a_b", "1"]
    assert len(rttm[0].split()) == 10
    labels = run(folder / "a b.wav", "--labels")[1].splitlines()
    assert [float(line.split("\t")[0]) for line in labels] == [s["start_s"] for s in segments]
    grid = run(folder / "a b.wav", "--textgrid")[1]
    assert grid.startswith('File type = "ooTextFile"')
    assert grid.count('text = "speech"') == len(segments)
    f0 = run(folder / "a b.wav", "--f0-csv")[1].splitlines()
    assert f0[0] == "time,frequency,confidence"
    assert len(f0) == 190


def test_no_textgrid_of_no_sound(run, folder):
    code, out, err = run(folder / "empty.wav", "--textgrid")
    assert (code, out) == (0, "")
    assert err.count("\n") == 1
    assert "empty.wav: it holds no samples" in err
    assert "xmax" in run(folder / "short.wav", "--textgrid")[1]


def test_assertions_decide_the_exit_code(run, folder):
    path = folder / "a b.wav"
    assert run(path, "--assert", "duration_s>2", "--assert", "pesq>=1")[0] == 0
    code, _, err = run(path, "--assert", "duration_s > 4")
    assert code == 3
    assert "duration_s > 4 does not hold: duration_s is 3.0" in err
    assert run(folder / "silence.wav", "--assert", "snr_db>-99")[0] == 3
    assert run(path, "--assert", "nonsense>1")[0] == 2
    assert run(path, "--assert", "snr_db")[0] == 2
    assert run(folder / "text.wav", "--assert", "snr_db>5")[0] == 1


def test_usage_errors(run, folder):
    assert run(folder / "a b.wav", "--json", "--csv")[0] == 2
    assert run(folder / "a b.wav", "--frames")[0] == 2
    assert run(folder, "--labels")[0] == 2
    assert run()[0] == 2


def test_plot_draws_a_picture(run, folder, tmp_path):
    for name in ("a b.wav", "silence.wav"):
        code, _, _ = run(folder / name, "--plot", tmp_path / f"{name}.png")
        assert code == 0
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    code, _, err = run(folder / "a b.wav", "--plot", tmp_path / "silence.wav.png")
    assert code == 2
    assert "--overwrite" in err


def test_probes_must_fit_the_model(run, folder, tmp_path, engine):
    code, out, err = run(folder / "a b.wav", "--json", probes=False)
    assert (code, out) == (2, "")
    assert "no probes are shipped for the model 'tiny'" in err
    header = {"name": "alien", "model": {"name": "other", "sha256": "0" * 64}}
    alien = tmp_path / "alien"
    save_probes(alien, header, [], np.zeros(0), np.zeros((0, 0)), np.zeros(0))
    code, out, err = run(folder / "a b.wav", "--probes", alien, probes=False)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "were fitted for the model 'other'" in err


def test_stdin_gives_the_same_report(checkpoint_path, probes_path, folder, run):
    command = [sys.executable, "-m", "dynse", "probe", "-", "--json", "--frames"]
    command += ["--model", str(checkpoint_path), "--probes", str(probes_path)]
    data = (folder / "a b.wav").read_bytes()
    piped = subprocess.run(command, input=data, capture_output=True, check=True).stdout
    there = strict(run(folder / "a b.wav", "--json", "--frames")[1])
    assert {**strict(piped.decode()), "path": ""} == {**there, "path": ""}


def test_nothing_heavy_is_imported(checkpoint_path, probes_path, folder):
    code = (
        "import sys; from dynse.cli.app import _run;"
        f"_run(['probe', {str(folder / 'a b.wav')!r}, '--jsonl', '--model',"
        f" {str(checkpoint_path)!r}, '--probes', {str(probes_path)!r}]);"
        "heavy = {'sklearn', 'scipy', 'torch', 'librosa', 'pyworld', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_fit_probes_check_counts(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for part, name in (("clean", "anna"), ("noise", "rain")):
        (tmp_path / part / name).mkdir(parents=True)
        x = 0.1 * rng.standard_normal(16000)
        soundfile.write(tmp_path / part / name / "x.wav", x, 16000)
    (tmp_path / "speakers.csv").write_text("speaker,gender,split\nanna,female,train\n")
    (tmp_path / "noise.csv").write_text("name,category,split\nrain/x.wav,nature,train\n")
    assert _run(["fit-probes", str(tmp_path), "--check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["train"]["gender_minutes"] == {"female": 0.02}
    assert told["train"]["category_minutes"] == {"nature": 0.02}
    assert "missing" in told["test"]
    assert _run(["fit-probes", str(tmp_path / "nowhere"), "--check"]) == 2
    target = tmp_path / "p.safetensors"
    target.write_bytes(b"")
    assert _run(["fit-probes", str(tmp_path), "-o", str(target)]) == 2
