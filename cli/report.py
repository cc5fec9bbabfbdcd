"""What the probes say of a recording, as data and as text.

`Analyst` listens to an enhancement and gives the report of contract `dynse.probe/1` as plain
values; the functions below it turn reports into a table, CSV and the formats of other programs.
All numbers are finite: what cannot be estimated is None.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .conditions import CUSTOM, NUMBERS, WORDS
from .planning import printable

if TYPE_CHECKING:
    from ..audio.io import Reader
    from ..models.engine import Engine
    from ..probes.probe_file import Probe, Probes
    from ..probes.reading import Reading

SCHEMA = "dynse.probe/1"
SCHEMA_FILE = Path(__file__).parent / "schema" / "probe-1.json"
Report = dict[str, Any]

_CLIPPED = 32766.5 / 32768
"""Magnitude from which a sample counts as clipped: full scale of 16 bits and above."""


class Analyst:
    """Collects what a report needs while a recording passes by.

    Give `listen` to an `Enhancer` as listener and each block read to `hear`; `report` sums up.

    Parameters
    ----------
    engine, probes : as loaded.
    frames : with tracks, one value a frame.
    """

    def __init__(self, engine: Engine, probes: Probes, frames: bool = False):
        from ..probes.reading import ProbeReader

        self._engine, self._probes, self._frames = engine, probes, frames
        self._reader = ProbeReader(probes, engine, tracks=frames)
        self.listen: Callable[[Any, Any, Any], None] = self._reader.update
        self._peak, self._clipped = 0.0, 0

    def hear(self, block: Any) -> None:
        """Take a (n, channels) block as read."""
        import numpy as np

        if block.size:
            peak = max(float(block.max()), -float(block.min()))
            self._peak = max(self._peak, peak)
            if peak >= _CLIPPED:
                self._clipped += int(np.count_nonzero(np.abs(block) >= _CLIPPED))

    def report(self, path: str, reader: Reader, first_channel: bool = False) -> Report:
        """Report of the recording, which must have been heard to its end.

        Parameters
        ----------
        path : as the user named it.
        reader : what it was read from.
        first_channel : the first of its channels alone was listened to.
        """
        duration = reader.frames_read / reader.sample_rate
        reading = self._reader.finish(duration, silent=self._peak == 0.0)
        values, engine = reading.values, self._engine
        audio = {
            "sample_rate": reader.sample_rate,
            "channels": reader.channels,
            "frames": reader.frames_read,
            "duration_s": _number(duration),
            "subtype": reader.subtype,
            "peak_dbfs": _number(20 * math.log10(self._peak), 2) if self._peak > 0 else None,
            "clipped_samples": self._clipped,
        }
        found: Report = {
            **self._frame(path),
            "status": "ok",
            "error": None,
            "warnings": [
                *({"code": w.code, "message": w.message} for w in reader.warnings),
                *self._warnings(reader, reading, first_channel and reader.channels > 1),
            ],
            "audio": audio,
            "vad": {
                "speech_ratio": _number(reading.speech_ratio),
                "threshold": 0.5,
                "segments": [
                    {
                        "start_s": _number(s.start_s),
                        "end_s": _number(s.end_s),
                        "confidence": _number(s.confidence, 3),
                    }
                    for s in reading.segments
                ],
            },
            "snr_db": _pair(values, "snr", "_db", 1),
            "si_sdr_db": _pair(values, "si_sdr", "_db", 1),
            "pesq": {
                **_pair(values, "pesq", "", 2),
                "kind": "estimate",
                "scale": "wb-pesq 1.04..4.64",
            },
            "noise": _class(reading, "category"),
            "gender": _class(reading, "gender"),
            "f0_hz": {k: _number(values.get(f"f0_{k}"), 1) for k in ("median", "p10", "p90")},
            "compute": {
                "utilisation": _number(reading.utilisation),
                "mmac_per_s": _number(_mmac(engine, reading), 2),
                "frames": reading.frames,
            },
        }
        custom = _custom(reading, self._probes)
        if custom:
            found["custom"] = custom
        if self._frames:
            found["frames"] = _tracks(reading)
        return found

    def _frame(self, path: str) -> Report:
        return frame(path, origin(self._engine, self._probes))

    def _warnings(
        self, reader: Reader, reading: Reading, first_channel: bool
    ) -> Iterable[dict[str, str]]:
        def say(code: str, message: str) -> dict[str, str]:
            return {"code": code, "message": message}

        if reader.frames_read == 0:
            yield say("empty", "it holds no samples")
        elif self._peak == 0:
            yield say("silence", "it is digital silence: nothing to estimate")
        elif self._probes.get("vad") is None:
            yield say("no_vad", "these probes do not tell speech: what is said of it is null")
        elif not reading.segments:
            yield say("no_speech", "no speech found: what is said of speech is null")
        elif reading.doubtful:
            yield say(
                "doubtful_speech",
                "what sounds like speech may be music or noise: nothing is said of it",
            )
        if reader.sample_rate < 16000:
            yield say(
                "narrowband",
                f"sampled at {reader.sample_rate} Hz, while the probes were fitted on sound up to"
                " 8 kHz: read SNR, PESQ and noise with caution",
            )
        if first_channel:
            yield say("first_channel", "channels were enhanced one by one: this is of the first")
        if self._clipped:
            yield say("clipped", f"{self._clipped} samples at or above full scale")


def origin(engine: Engine, probes: Probes) -> Report:
    """Who says what a report says."""
    from .. import __version__

    return {
        "schema": SCHEMA,
        "version": __version__,
        "model": {"name": engine.name, "sha256": engine.sha256},
        "probes": {"name": probes.name, "sha256": probes.sha256},
    }


def frame(path: str, said_by: Report) -> Report:
    """What every report begins with; `said_by` is of `origin`."""
    return {**said_by, "path": utf8(path)}


def failure(path: str, said_by: Report, code: str, message: str) -> Report:
    """Report of an input of which nothing can be said; `said_by` is of `origin`."""
    error = {"code": code, "message": utf8(message)}
    return {**frame(path, said_by), "status": "error", "error": error, "warnings": []}


def utf8(text: str) -> str:
    r"""Text without the surrogates that stand for bytes of file names, which become `\xe9`."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _number(x: float | None, digits: int = 4) -> float | None:
    return None if x is None or not math.isfinite(x) else round(float(x), digits)


def _pair(values: dict[str, float | None], name: str, unit: str, digits: int) -> Report:
    return {
        side: _number(values.get(f"{name}_{side}{unit}"), digits) for side in ("input", "enhanced")
    }


def _class(reading: Reading, name: str) -> Report:
    label, probabilities = reading.classes.get(name, (None, {}))
    ranked = sorted(probabilities.items(), key=lambda entry: -entry[1])
    return {"label": label, "probabilities": {word: round(p, 3) for word, p in ranked}}


def _custom(reading: Reading, probes: Probes) -> Report:
    """What probes of one's own say, by column."""
    found: Report = {}
    for probe in own_probes(probes):
        if probe.kind == "class":
            found[probe.name] = _class(reading, probe.name)
        else:
            found[probe.name] = _number(reading.values.get(probe.name))
    return found


def own_probes(probes: Probes) -> list[Probe]:
    """Those of a user's own columns (`dynse fit-probes` with a manifest.csv)."""
    from ..probes.probe_file import BUILT_IN

    # The probe of a whole recording speaks under the name of that of its frames.
    return [p for p in probes.probes if p.name not in BUILT_IN]


def own_columns(probes: Probes) -> tuple[str, ...]:
    """What a user's own columns are called in `flat`, CSV and conditions."""
    return tuple(CUSTOM + probe.name for probe in own_probes(probes))


def _mmac(engine: Engine, reading: Reading) -> float:
    from ..models.compute import count_macs

    if not reading.frames:
        return 0.0
    used = 1.0 if reading.utilisation is None else reading.utilisation  # it has no gates
    return count_macs(engine.header["dims"]).mmac_per_s(used)


def _tracks(reading: Reading) -> Report:
    """One value a frame; NaN becomes null."""
    import numpy as np

    from ..probes.reading import HOP_S

    def column(name: str, digits: int) -> list[float | None]:
        track = reading.tracks.get(name)
        if track is None:
            return [None] * reading.frames
        rounded = np.round(track.astype(np.float64), digits)
        return [x if x == x else None for x in rounded.tolist()]

    spoken = np.zeros(reading.frames, np.int64)
    for segment in reading.segments:
        first, last = (round(t / HOP_S) for t in (segment.start_s, segment.end_s))
        spoken[first : last + 1] = 1
    logs = reading.tracks.get("category")
    labels = tuple(reading.classes.get("category", (None, {}))[1])
    noise: list[str | None] = [None] * reading.frames
    if logs is not None and labels:
        noise = [labels[i] for i in logs.argmax(axis=1).tolist()]
    return {
        "hop_s": HOP_S,
        "t0_s": 0.0,
        "vad": spoken.tolist(),
        "vad_probability": column("vad", 3),
        "snr_db": column("snr_input_db", 1),
        "si_sdr_db": column("si_sdr_input_db", 1),
        "pesq_input": column("pesq_input", 2),
        "pesq_enhanced": column("pesq_enhanced", 2),
        "noise": noise,
        "f0_hz": column("f0_hz", 1),
        "voiced_probability": column("voiced", 3),
        "utilisation": column("utilisation", 3),
    }


# ------------------------------------------------------------------------------------- rendering


def to_json(report: Report | list[Report], indent: int | None = 2) -> str:
    """Strict JSON, UTF-8."""
    return json.dumps(report, indent=indent, ensure_ascii=False, allow_nan=False)


CSV_COLUMNS = ("path", "status", *NUMBERS, *WORDS, "warnings", "error")
"""Columns of `to_csv`: the fields that conditions know, and what is said of the whole."""


def flat(report: Report) -> dict[str, Any]:
    """A report as one row of `CSV_COLUMNS` and `own_columns`; None where there is nothing."""
    row: dict[str, Any] = dict.fromkeys(CSV_COLUMNS)
    row |= {"path": report["path"], "status": report["status"]}
    row["warnings"] = " ".join(warning["code"] for warning in report["warnings"])
    if report["status"] != "ok":
        return {**row, "error": report["error"]["message"]}
    audio = report["audio"]
    names = ("duration_s", "sample_rate", "channels", "peak_dbfs", "clipped_samples")
    row |= {name: audio[name] for name in names}
    row["speech_ratio"] = report["vad"]["speech_ratio"]
    if row["speech_ratio"] is not None:
        row["segments"] = len(report["vad"]["segments"])
    for side in ("input", "enhanced"):
        row[f"snr_{side}_db"] = report["snr_db"][side]
        row[f"si_sdr_{side}_db"] = report["si_sdr_db"][side]
        row[f"pesq_{side}"] = report["pesq"][side]
    row |= {"noise": report["noise"]["label"], "gender": report["gender"]["label"]}
    row |= {f"f0_{name}_hz": value for name, value in report["f0_hz"].items()}
    row |= {name: report["compute"][name] for name in ("utilisation", "mmac_per_s")}
    for name, said in report.get("custom", {}).items():
        row[CUSTOM + name] = said["label"] if isinstance(said, dict) else said
    return row


def to_csv(report: Report, header: bool, own: Sequence[str] = ()) -> str:
    """One row, without the line break at its end; with the column names before it if asked.

    `own` are further columns, of `own_columns`, at the end.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, (*CSV_COLUMNS, *own), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerow(flat(report))
    return out.getvalue().rstrip("\n")


def _speech(report: Report) -> list[dict[str, float]]:
    segments: list[dict[str, float]] = report.get("vad", {}).get("segments", [])
    return segments


def to_rttm(report: Report) -> str:
    """NIST RTTM, one line a segment; spaces in the file's name become underscores.

    Of a failed input a comment, which `md-eval` passes over: that nobody takes it for silence.
    """
    name = "_".join(Path(report["path"]).stem.split()) or "-"
    if report["status"] != "ok":
        return f";; {name} failed: {report['error']['message']}"
    return "\n".join(
        f"SPEAKER {name} 1 {s['start_s']:.3f} {s['end_s'] - s['start_s']:.3f}"
        f" <NA> <NA> speech {s['confidence']:.3f} <NA>"
        for s in _speech(report)
    )


def to_labels(report: Report) -> str:
    """Audacity's label track: start, end, label, tab-separated."""
    return "\n".join(f"{s['start_s']:.6f}\t{s['end_s']:.6f}\tspeech" for s in _speech(report))


def to_textgrid(report: Report) -> str:
    """Praat's TextGrid with one interval tier that covers the whole recording.

    Empty if there is none to make: Praat cannot create one, and praatio cannot read one, that ends
    where it starts.
    """
    audio = report.get("audio", {})
    if not audio.get("frames"):
        return ""
    end = audio["duration_s"] or 1e-4  # rounded away; written without an exponent, for praatio
    intervals: list[tuple[float, float, str]] = []
    at = 0.0
    for s in _speech(report):
        if s["start_s"] > at:
            intervals.append((at, s["start_s"], ""))
        intervals.append((s["start_s"], s["end_s"], "speech"))
        at = s["end_s"]
    if at < end or not intervals:
        intervals.append((at, end, ""))
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end}",
        "tiers? <exists>", "size = 1", "item []:", "    item [1]:",
        '        class = "IntervalTier"', '        name = "speech"', "        xmin = 0",
        f"        xmax = {end}", f"        intervals: size = {len(intervals)}",
    ]  # fmt: skip
    for number, (start, stop, text) in enumerate(intervals, 1):
        lines += [
            f"        intervals [{number}]:",
            f"            xmin = {start}",
            f"            xmax = {stop}",
            f'            text = "{text}"',
        ]
    return "\n".join(lines)


def to_f0_csv(report: Report) -> str:
    """`time,frequency,confidence` as CREPE writes it, of a report with frames; 0 Hz: unvoiced."""
    tracks = report.get("frames")
    lines = ["time,frequency,confidence"]
    if tracks:
        for i, (f0, p) in enumerate(
            zip(tracks["f0_hz"], tracks["voiced_probability"], strict=True)
        ):
            lines.append(f"{i * tracks['hop_s']:.3f},{f0 or 0:.1f},{p or 0:.3f}")
    return "\n".join(lines)


def to_table(report: Report) -> str:
    """What a person wants to know, as wide and coloured as stdout takes it."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    with console.capture() as captured:
        audio, vad = report["audio"], report["vad"]
        table = Table(
            title=escape(printable(report["path"])), title_justify="left", title_style="bold",
            box=box.SIMPLE, show_header=False, padding=(0, 1),
        )  # fmt: skip
        table.add_column(no_wrap=True, style="dim")
        table.add_column()
        spoken = vad["speech_ratio"]
        peak = _text(audio["peak_dbfs"], " dBFS peak", 1)
        table.add_row(
            "recording",
            f"{audio['duration_s']:.2f} s, {audio['sample_rate']} Hz, {audio['channels']} ch,"
            f" {audio['subtype']}, {peak}",
        )
        parts = ", ".join(f"{s['start_s']:.2f}-{s['end_s']:.2f}" for s in vad["segments"][:6])
        more = len(vad["segments"]) - 6
        table.add_row(
            "speech",
            "-" if spoken is None else f"{100 * spoken:.0f} %"
            + (f": {parts} s" if parts else "") + (f" and {more} more" if more > 0 else ""),
        )  # fmt: skip
        for title, key, unit, digits in (
            ("SNR", "snr_db", " dB", 1),
            ("SI-SDR", "si_sdr_db", " dB", 1),
            ("PESQ (estimate)", "pesq", "", 2),
        ):
            before, after = (
                _text(report[key][side], unit, digits) for side in ("input", "enhanced")
            )
            table.add_row(title, before if before == "-" else f"{before}, enhanced {after}")
        doubtful = any(warning["code"] == "doubtful_speech" for warning in report["warnings"])
        for title, key in (("noise", "noise"), ("voice", "gender")):
            best = list(report[key]["probabilities"].items())[:2]
            named = ", ".join(f"{word} {100 * p:.0f} %" for word, p in best)
            if report[key]["label"] is None:
                # Named only where it is nearly sure; what it may be helps a person all the same.
                enough = not doubtful and audio["duration_s"] >= 1
                guess = key == "noise" and enough and best and best[0][1] >= 0.5
                named = f"unsure: {named}" if guess else "-"
            table.add_row(title, named)
        for name, said in report.get("custom", {}).items():
            table.add_row(escape(name), escape(_own(said)))
        f0 = report["f0_hz"]
        table.add_row(
            "F0",
            "-" if f0["median"] is None
            else f"{f0['median']:.0f} Hz ({f0['p10']:.0f} to {f0['p90']:.0f})",
        )  # fmt: skip
        compute = report["compute"]
        table.add_row(
            "computed",
            f"{_text(compute['utilisation'], '', 2)} of the channels,"
            f" {compute['mmac_per_s']:.1f} MMAC/s",
        )
        for warning in report["warnings"]:
            table.add_row("warning", escape(warning["message"]))
        console.print(table)
    return captured.get().rstrip("\n")


def _own(said: Any) -> str:
    if not isinstance(said, dict):
        return "-" if said is None else f"{said:g}"
    best = list(said["probabilities"].items())[:2]
    return "-" if said["label"] is None else ", ".join(f"{n} {100 * p:.0f} %" for n, p in best)


def _text(x: float | None, unit: str, digits: int) -> str:
    return "-" if x is None else f"{x:.{digits}f}{unit}"
