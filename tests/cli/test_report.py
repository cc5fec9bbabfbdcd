"""Reports as text: what other programs read, to the letter."""

import csv
import io
import json
from types import SimpleNamespace

import pytest

from dynse.cli import report as reports
from dynse.probes.probe_file import Probe

SAID_BY = {
    "schema": "dynse.probe/1",
    "version": "0",
    "model": {"name": "m", "sha256": "0" * 64},
    "probes": {"name": "p", "sha256": "1" * 64},
}
REPORT = {
    **SAID_BY,
    "path": "in/a  b, é.wav",
    "status": "ok",
    "error": None,
    "warnings": [{"code": "clipped", "message": "2 samples at or above full scale"}],
    "audio": {
        "sample_rate": 16000, "channels": 1, "frames": 32000, "duration_s": 2.0,
        "subtype": "PCM_16", "peak_dbfs": -0.1, "clipped_samples": 2,
    },
    "vad": {
        "speech_ratio": 0.5,
        "threshold": 0.5,
        "segments": [
            {"start_s": 0.2, "end_s": 0.8, "confidence": 0.93},
            {"start_s": 1.0, "end_s": 2.0, "confidence": 0.7},
        ],
    },
    "snr_db": {"input": 12.4, "enhanced": 21.0},
    "si_sdr_db": {"input": None, "enhanced": None},
    "pesq": {"input": 1.7, "enhanced": 2.6, "kind": "estimate", "scale": "wb-pesq 1.04..4.64"},
    "noise": {"label": "street", "probabilities": {"street": 0.7, "public": 0.3}},
    "gender": {"label": None, "probabilities": {}},
    "f0_hz": {"median": 118.0, "p10": 96.0, "p90": 171.0},
    "compute": {"utilisation": 0.24, "mmac_per_s": 9.8, "frames": 126},
}  # fmt: skip
FAILED = reports.failure("in/no.wav", SAID_BY, "unreadable", "there is no such file")


def test_the_examples_follow_the_schema(strict_json):
    strict_json(reports.to_json([REPORT, FAILED]))


def test_csv():
    text = reports.to_csv(REPORT, header=True) + "\n" + reports.to_csv(FAILED, header=False)
    good, bad = csv.DictReader(io.StringIO(text))
    assert text.splitlines()[1] == (
        '"in/a  b, é.wav",ok,2.0,16000,1,-0.1,2,0.5,2,12.4,21.0,,,1.7,2.6,118.0,96.0,171.0,'
        "0.24,9.8,street,,clipped,"
    )
    assert good["noise"] == "street"
    assert (bad["status"], bad["error"]) == ("error", "there is no such file")
    assert bad["snr_input_db"] == ""


def test_csv_has_the_columns_of_ones_own_probes():
    own = {"custom": {"rate": 0.5, "colour": {"label": "dark", "probabilities": {}}}}
    columns = ("custom.rate", "custom.colour")
    rows = [
        reports.to_csv(FAILED, True, columns),
        reports.to_csv({**REPORT, **own}, False, columns),
    ]
    bad, good = csv.DictReader(io.StringIO("\n".join(rows)))
    assert tuple(good) == (*reports.CSV_COLUMNS, *columns)
    assert (good["custom.rate"], good["custom.colour"]) == ("0.5", "dark")
    assert (bad["custom.rate"], bad["custom.colour"]) == ("", "")


def test_rttm():
    assert reports.to_rttm(REPORT).splitlines() == [
        "SPEAKER a_b,_é 1 0.200 0.600 <NA> <NA> speech 0.930 <NA>",
        "SPEAKER a_b,_é 1 1.000 1.000 <NA> <NA> speech 0.700 <NA>",
    ]
    assert reports.to_rttm(FAILED) == ";; no failed: there is no such file"


def test_audacity_labels():
    assert reports.to_labels(REPORT) == "0.200000\t0.800000\tspeech\n1.000000\t2.000000\tspeech"


def test_textgrid():
    assert (
        reports.to_textgrid(REPORT)
        == """\
File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.0
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "speech"
        xmin = 0
        xmax = 2.0
        intervals: size = 4
        intervals [1]:
            xmin = 0.0
            xmax = 0.2
            text = ""
        intervals [2]:
            xmin = 0.2
            xmax = 0.8
            text = "speech"
        intervals [3]:
            xmin = 0.8
            xmax = 1.0
            text = ""
        intervals [4]:
            xmin = 1.0
            xmax = 2.0
            text = "speech\""""
    )


def test_textgrid_has_a_duration():
    def grid(frames, duration):
        audio = {**REPORT["audio"], "frames": frames, "duration_s": duration}
        vad = {**REPORT["vad"], "segments": []}
        return reports.to_textgrid({**REPORT, "audio": audio, "vad": vad})

    assert grid(0, 0.0) == ""
    assert "xmax = 0.0001\n" in grid(1, 0.0)
    assert "xmax = 0.0001\n" in grid(2, 0.0001)


def test_f0_csv():
    tracks = {"hop_s": 0.016, "f0_hz": [None, 118.2], "voiced_probability": [0.1, 0.94]}
    assert reports.to_f0_csv({**REPORT, "frames": tracks}) == (
        "time,frequency,confidence\n0.000,0.0,0.100\n0.016,118.2,0.940"
    )


def test_table(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.strip() for line in reports.to_table(REPORT).splitlines() if line.strip()]
    told = dict(line.split("  ", 1) for line in lines[1:])
    told = {name: " ".join(text.split()) for name, text in told.items()}
    assert lines[0] == "in/a  b, é.wav"
    assert told["recording"] == "2.00 s, 16000 Hz, 1 ch, PCM_16, -0.1 dBFS peak"
    assert told["speech"] == "50 %: 0.20-0.80, 1.00-2.00 s"
    assert told["SNR"] == "12.4 dB, enhanced 21.0 dB"
    assert told["SI-SDR"] == "-"
    assert told["noise"] == "street 70 %, public 30 %"
    assert told["voice"] == "-"
    assert told["F0"] == "118 Hz (96 to 171)"
    assert told["warning"] == "2 samples at or above full scale"


@pytest.mark.parametrize(
    ("probability", "code", "told"),
    [
        (0.7, "clipping", "unsure: street 70 %, public 30 %"),
        (0.45, "clipping", "-"),
        (0.7, "doubtful_speech", "-"),
    ],
)
def test_a_noise_that_is_not_named_may_be_guessed(probability, code, told):
    guess = {"label": None, "probabilities": {"street": probability, "public": 0.3}}
    warnings = [{"code": code, "message": "-"}]
    lines = reports.to_table({**REPORT, "noise": guess, "warnings": warnings}).splitlines()
    (row,) = (line for line in lines if line.strip().startswith("noise"))
    assert row.split("noise")[1].strip() == told


def test_custom_holds_only_what_users_added():
    names = ["snr_input_db", "vad", "roughness"]
    probes = SimpleNamespace(probes=[Probe(name, "value") for name in names])
    reading = SimpleNamespace(values={"snr_input_db": 3.0, "roughness": 0.5})
    assert reports._custom(reading, probes) == {"roughness": 0.5}


def test_json_is_utf_8_whatever_a_file_is_called():
    report = reports.failure("latin-\udce9.wav", SAID_BY, "unreadable", "it is \udcff")
    assert json.loads(reports.to_json(report).encode())["path"] == "latin-\\xe9.wav"
    with pytest.raises(ValueError, match="not JSON compliant"):
        reports.to_json({"x": float("nan")})
