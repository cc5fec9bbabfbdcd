"""Quality of a model beside its peers, and what it must not do: one command, all figures.

    python -m benchmarks.quality TEST/ [--model NAME|FILE] [-j N] [--json FILE] [--readme]

TEST/ holds ``clean/``, ``noisy/``, ``test.csv`` (name, snr_db, noise_category) and, for the
comparison, ``peers.csv`` (peer, mmac_per_s, pesq, stoi, estoi, si_sdr) scored on the same mixtures.

Beside the scores by SNR and by noise: how much of the network each SNR gets when the *same*
recordings are remixed, so that nothing else differs between rows; what becomes of speech without
noise; and whether very quiet speech comes out at its level. ``--readme`` renews the tables of
README.md between their markers.
"""

from __future__ import annotations

import argparse
import csv
import json
import textwrap
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from dynse.audio.mixing import active_level, mix_at_snr
from dynse.audio.stft import SAMPLE_RATE, analyse
from dynse.models.checkpoint import DEFAULT, SHIPPED, read
from dynse.models.compute import count_macs
from dynse.models.engine import Engine, load
from dynse.models.evaluation import (
    METRICS,
    find_pairs,
    load_mono,
    score,
    score_pairs,
    summarise,
)
from dynse.models.stream import enhance

from .readme import renew, table

REMIX_DB = (-5, 0, 5, 10, 15, 20)
QUIET_DBFS, LOUD_DBFS = -50.0, -20.0


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("test", type=Path)
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("-j", "--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--readme", action="store_true", help="renew the tables of README.md")
    arguments = parser.parse_args()
    report = measure(arguments.test, arguments.model, arguments.jobs)
    print(results_table(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    if arguments.readme:
        renew({"models": models_table(), "results": results_table(report)})


def measure(test: Path, model: str, jobs: int) -> dict[str, Any]:
    """All figures of one model on one test folder, as plain values."""
    engine = load(model)
    pairs = find_pairs(test / "clean", test / "noisy")
    with (test / "test.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    scores = list(score_pairs(model, pairs, jobs))
    report: dict[str, Any] = {
        "model": {"name": engine.name, "sha256": engine.sha256},
        "mean": summarise(scores, engine),
    }
    for column, key in (("snr_db", float), ("noise_category", str)):
        report[column] = {
            value: summarise([s for s in scores if rows[s.name][column] == value], engine)
            for value in sorted({rows[s.name][column] for s in scores}, key=key)
        }
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        tasks = [(model, *pair) for pair in pairs]
        report["clean"] = _mean(list(pool.map(_clean_speech, tasks)))
        remixed = np.array(list(pool.map(_remixed_utilisation, tasks)))
    report["clean"]["worst_level_db"] = report["clean"].pop("worst")
    report["utilisation_remixed"] = dict(
        zip(map(str, REMIX_DB), np.round(remixed.mean(0), 4).tolist(), strict=True)
    )
    report["utilisation_silence"] = _silence(engine)
    peers = test / "peers.csv"
    report["peers"] = _peers(peers) if peers.is_file() else []
    return report


def _peers(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {
            "name": row["peer"],
            "mmac_per_s": float(row["mmac_per_s"]),
            **{m: float(row[m.removesuffix("_db")]) for m in METRICS},
        }
        for row in rows
    ]


def _clean_speech(task: tuple[str, Path, Path]) -> dict[str, float | None]:
    """Scores of speech without noise, and how far its level moves when it is very quiet."""
    model, clean_path, _ = task
    engine, clean = load(model), load_mono(clean_path)
    found = score(clean, enhance(engine, clean))
    levels = []
    for level_db in (QUIET_DBFS, LOUD_DBFS):
        x = clean * np.float32(10 ** (level_db / 20) / active_level(clean))
        levels.append(20 * np.log10(active_level(enhance(engine, x)) / active_level(x)))
    return {**found, "level_db": float(levels[0] - levels[1]), "loss_db": float(levels[0])}


def _remixed_utilisation(task: tuple[str, Path, Path]) -> list[float]:
    """Mean utilisation of one pair, its noise added again at each SNR."""
    model, clean_path, noisy_path = task
    engine, clean, noisy = load(model), load_mono(clean_path), load_mono(noisy_path)
    return [
        float(
            engine.step(analyse(mix_at_snr(clean, noisy - clean, snr)[0]), engine.initial_state())[
                1
            ].mean()
        )
        for snr in REMIX_DB
    ]


def _silence(engine: Engine) -> dict[str, float]:
    """Mean utilisation of 5 s of digital silence and of white noise at -30 dBFS."""
    noise = 10 ** (-30 / 20) * np.random.default_rng(0).standard_normal(5 * SAMPLE_RATE)
    return {
        name: float(engine.step(analyse(x.astype(np.float32)), engine.initial_state())[1].mean())
        for name, x in (("digital", 0 * noise), ("noise", noise))
    }


def _mean(rows: list[dict[str, float | None]]) -> dict[str, float]:
    means = {
        name: float(np.mean([row[name] for row in rows if row[name] is not None]))
        for name in rows[0]
    }
    return {**means, "worst": max(abs(row["level_db"] or 0.0) for row in rows)}


def models_table() -> str:
    """One row about each shipped model, from its checkpoint and the scores in it."""
    head = ("model", "parameters", "dense", "average (test set)", "latency", "code", "weights")
    rows = []
    for name in SHIPPED:
        checkpoint = read(name)
        data, test = checkpoint.header["data"], checkpoint.header["scores"]["test"]
        macs, used = count_macs(checkpoint.header["dims"]), test["utilisation"]
        running = ("running_mean", "running_var", "num_batches_tracked")
        weights = sum(x.size for n, x in checkpoint.tensors.items() if not n.endswith(running))
        rows.append(
            (
                f"`{name}`" + " (default)" * (name == DEFAULT),
                f"{weights / 1e3:.0f} k",
                f"{macs.mmac_per_s():.1f} MMAC/s",
                f"{macs.mmac_per_s(used):.1f} MMAC/s at utilisation {used:.2f}",
                "32 ms, no look-ahead",
                "Apache-2.0",
                "CC BY-NC-SA 4.0",
                f"{data['speech_hours']} h of speech, {data['noise_hours']} h of noise",
            )
        )
    return table((*head, "trained on"), rows)


def _shipped(besides: str) -> list[dict[str, Any]]:
    """Scores of the other shipped models, as their checkpoints say them."""
    rows = []
    for name in SHIPPED:
        header = read(name).header
        test = header.get("scores", {}).get("test")
        if name != besides and test:
            cost = count_macs(header["dims"]).mmac_per_s(test["utilisation"])
            rows.append({"name": f"**{name}**", "mmac_per_s": cost, **test["mean"]})
    return rows


def results_table(report: dict[str, Any]) -> str:
    """Scores by SNR, beside the peers, and the rest in words."""
    head = ("input SNR", "WB-PESQ", "STOI", "ESTOI", "SI-SDR dB", "utilisation", "MMAC/s")
    parts = {f"{snr} dB": part for snr, part in report["snr_db"].items()}
    by_snr = table(head, [_row(n, p) for n, p in {**parts, "**mean**": report["mean"]}.items()])
    parts = report["noise_category"]
    by_noise = table(("noise", *head[1:]), [_row(name, part) for name, part in parts.items()])
    mean = report["mean"]
    own = {"name": f"**{report['model']['name']}**", "mmac_per_s": mean["mmac_per_s"]}
    everyone = [own | mean["enhanced"], *_shipped(report["model"]["name"]), *report["peers"]]
    everyone.sort(key=lambda row: -row["pesq"])
    beside = table(
        ("on the same files", "MMAC/s", *head[1:5]),
        [
            (
                row["name"],
                f"{row['mmac_per_s']:.0f}",
                *(f"{row[m]:.{d}f}" for m, d in zip(METRICS, (2, 3, 3, 1), strict=True)),
            )
            for row in everyone
        ],
    )
    gates, clean = mean["gates"], report["clean"]
    silence = report["utilisation_silence"]
    used = ", ".join(f"{value:.2f}" for value in report["utilisation_remixed"].values())
    words = (
        f"{gates['dynamic']} of {gates['all']} gates have a standard deviation above 0.1; the "
        f"blocks' mean utilisations lie between {gates['block_min']:.2f} and "
        f"{gates['block_max']:.2f}. Frames without speech use "
        f"{gates['utilisation_no_speech']:.2f}, frames with speech "
        f"{gates['utilisation_speech']:.2f}; the same recordings remixed at -5, 0, 5, 10, 15 and "
        f"20 dB use {used}. Digital silence uses "
        f"{silence['digital']:.2f}, white noise alone {silence['noise']:.2f}. Speech without noise "
        f"comes out with WB-PESQ {clean['pesq']:.2f} and SI-SDR {clean['si_sdr_db']:.1f} dB; "
        f"speech at -50 dBFS comes out within {clean['worst_level_db']:.2f} dB of what it does at "
        "-20 dBFS."
    )
    intro = textwrap.fill(
        f"{mean['files']} fixed mixtures of speakers and noises that the network never met "
        "(`shared/data/test` of the project), absolute score and gain over the noisy input, by "
        "input SNR, by noise, and beside other enhancers on the same files; all of it by "
        "`python -m benchmarks.quality TEST/`:",
        100,
    )
    return "\n\n".join((intro, by_snr, by_noise, beside, textwrap.fill(words, 100)))


def _row(name: str, part: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        *(
            f"{part['enhanced'][m]:.{d}f} ({part['gain'][m]:+.{d}f})"
            for m, d in zip(METRICS, (2, 3, 3, 1), strict=True)
        ),
        f"{part['utilisation']:.2f}",
        f"{part['mmac_per_s']:.1f}",
    )


if __name__ == "__main__":
    main()
