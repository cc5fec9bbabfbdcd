"""Does pruning beat a plainly narrower net? Static and pruned networks by one recipe.

    python -m benchmarks.frontier DATA/ --runs RUNS/ [--steps 4000] [--exclude CORPUS] [--only NAME]
    python -m benchmarks.frontier DATA/ --runs RUNS/ --no-train --test TEST/ -o docs/frontier

The first command trains the points side by side, each on every batch (killed, it goes on from their
state files), the second scores the checkpoints and draws. The MACs of a pruned net are the average
over the recordings scored, and its time is the engine's on one thread, all points interleaved.
Pruned points start dense: their goal falls from 0.95 of the gates to their own over half of the
steps.

By this command, 1200 steps, all points (`docs/frontier.json`): against the line through the
static nets the pruned ones lose 0.03 to 0.08 of WB-PESQ and 0.04 to 0.30 dB at equal MMAC/s on
validation, 0.01 to 0.04 and 0.02 to 0.36 dB on test; at equal time 0.06 to 0.10 on validation. Of
the two widths neither is ahead. Four of the points were trained in one run, seven in another, on
the same mixtures.

Before that, after 2000 of 4000 steps on the same mixtures, one seed each (WB-PESQ and SI-SDR on 192
validation mixtures, average MMAC/s), as single runs of `Trainer` with 16 gating units:

    static, 64 wide                                      2.134   11.17 dB    6.1
    static, 86 wide                                      2.153   11.41 dB   10.3
    pruned, 128 wide, utilisation weight 40              2.105   11.27 dB   10.1
    the same, weight 8                                   2.135   11.43 dB   11.0
    weight 40, gates open gradually: a ramp, no step     2.116   11.36 dB   10.7

So pruning does not pay yet against a narrower net. How much of that is the penalty is not known:
the lighter one also left more gates open (0.32 instead of 0.27), and so did the ramp (0.31). A
narrow net with many hidden channels to choose from (64 x 256) was behind the static one 64 wide
after 1000 steps: 2.038 and 2.065, 10.2 and 10.4 dB.

Longer training does not change it. On an H100, side by side, same mixtures, 6000 of
10,000 steps of 64 x 4 s (427 h), losses of `Trainer` averaged over the last hundred steps (the
lease ended before the checkpoints came back, so nothing was validated):

                                     PESQ penalty   log10 SDR   1 - ESTOI   MMAC/s
    static, 64 wide                         2.288       1.129       0.260      6.1
    static, 86 wide                         2.235       1.152       0.252     10.3
    static, 110 wide                        2.187       1.174       0.245     16.1
    pruned, 128 wide, goal 0.35             2.279       1.131       0.258       10

A ramp again, goal 0.35 in both, 1000 steps of 16 x 3 s, 96 validation mixtures: 1.971 and 11.23 dB
with 0.39 of the gates, a step 1.972 and 11.17 dB with 0.30. So the ramp was not kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo

from dynse.audio.corpus import load_corpus
from dynse.audio.metrics import pesq_wb, si_sdr, stoi
from dynse.audio.stft import analyse
from dynse.models.compute import count_macs
from dynse.models.conv_fsenet import ConvFSENetConfig
from dynse.models.engine import Engine, load
from dynse.models.evaluation import find_pairs, load_mono
from dynse.models.losses import LossConfig
from dynse.models.stream import enhance
from dynse.models.training import TrainConfig, Trainer, together, validation_set


def static(width: int) -> tuple[ConvFSENetConfig, float]:
    """Ungated, as many hidden as residual channels: the square nets of the literature."""
    return ConvFSENetConfig(residual_channels=width, hidden_channels=width, gated=False), 1.0


def pruned(
    residual: int, hidden: int, units: int, utilisation: float
) -> tuple[ConvFSENetConfig, float]:
    """Gated, with `units` hidden units in each gating subnet."""
    model = ConvFSENetConfig(
        residual_channels=residual,
        hidden_channels=hidden,
        gate_hidden=units,
        gate_fast=units // 2,
    )
    return model, utilisation


POINTS = {
    **{f"static-{width}": static(width) for width in (44, 64, 86, 110, 138)},
    **{f"pruned-128x128-{u:.2f}": pruned(128, 128, 8, u) for u in (0.1, 0.25, 0.5)},
    **{f"pruned-64x192-{u:.2f}": pruned(64, 192, 8, u) for u in (0.1, 0.25, 0.5)},
}
"""Static nets of about 3, 6, 10, 16 and 25 MMAC/s; pruned ones of two widths: the default one, and
a narrow one with many hidden channels to choose from."""

VALID_MIXTURES = 192


def main() -> None:
    """Train what is missing, or score and draw."""
    parser = command_line(__doc__.splitlines()[0], list(POINTS), steps=4_000)
    parser.add_argument("--test", type=Path, help="folder with clean/ and noisy/, to report too")
    parser.add_argument("-o", "--out", type=Path, default=Path("frontier"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    exclude = tuple(arguments.exclude)
    if not arguments.no_train:
        train(
            {n: recipe(n, arguments.steps, arguments.bank) for n in arguments.only or POINTS},
            arguments.data, arguments.runs, exclude,
        )  # fmt: skip
        return
    points = report(arguments.data, arguments.runs, arguments.test, exclude)
    arguments.out.with_suffix(".json").write_text(json.dumps(points, indent=1) + "\n")
    draw(points, arguments.out.with_suffix(".png"))


def command_line(description: str, names: list[str], steps: int) -> argparse.ArgumentParser:
    """Options of a benchmark that trains networks side by side, then scores them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--bank", type=int, default=4_000, help="voices and noises drawn at once")
    parser.add_argument("--exclude", action="append", default=[])
    parser.add_argument("--only", action="append", choices=names)
    parser.add_argument("--no-train", action="store_true")
    return parser


def recipe(name: str, steps: int, bank: int) -> TrainConfig:
    """The settings of one point: they differ in the network and its goal alone."""
    model, utilisation = POINTS[name]
    return TrainConfig(
        steps=steps,
        warmup=min(300, steps // 10),
        anneal_from=0.95,
        anneal_steps=steps // 2,
        valid_every=max(1, steps // 3),
        valid_mixtures=24,  # to watch it; the report has more
        target_utilisation=utilisation,
        seed=77,
        bank=bank,
        bf16=True,
        model=model,
        loss=LossConfig(readout_weight=0.0),  # static nets have no gates to read
    )


def train(
    configs: dict[str, TrainConfig], data: Path, runs: Path, exclude: tuple[str, ...]
) -> None:
    """Train all points to their last step, going on from where they stopped."""
    torch._dynamo.config.recompile_limit = 2 * len(configs)  # the same code for every network
    corpora = [load_corpus(data, split, exclude=exclude) for split in ("train", "valid")]
    trainers: list[Trainer] = []
    for name, config in configs.items():
        shared = trainers[0].feed if trainers else None
        trainers.append(Trainer(config, *corpora, runs / name, workers=0, shared=shared))
    if trainers[0].step < trainers[0].config.steps:
        for records in together(trainers):
            for name, record in zip(configs, records, strict=True):
                print(
                    record["step"], name, json.dumps(record["valid"]), file=sys.stderr, flush=True
                )


def report(
    data: Path, runs: Path, test: Path | None, exclude: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Scores, average MACs and time of every point that is trained."""
    checkpoints = {n: runs / n / "last.safetensors" for n in POINTS}
    engines = {n: load(path) for n, path in checkpoints.items() if path.is_file()}
    if not engines:
        raise SystemExit(f"{runs}: nothing trained yet")
    config = TrainConfig(valid_mixtures=VALID_MIXTURES)
    noisy, clean, _ = validation_set(load_corpus(data, "valid", exclude=exclude), config)
    sets = {"valid": list(zip(clean.numpy(), noisy.numpy(), strict=True))}
    if test is not None:
        pairs = find_pairs(test / "clean", test / "noisy")
        sets["test"] = [(load_mono(c), load_mono(n)) for c, n in pairs]
    times = microseconds_a_frame(engines, np.concatenate([n for _, n in sets["valid"][:15]]))
    points: dict[str, dict[str, Any]] = {}
    for name, engine in engines.items():
        points[name] = {"us_a_frame": times[name], "steps": engine.header["training"]["steps"]}
        for split, recordings in sets.items():
            points[name][split] = scores(engine, recordings)
        print(name, json.dumps(points[name]), file=sys.stderr, flush=True)
    return points


def scores(
    engine: Engine, recordings: list[tuple[np.ndarray, np.ndarray]]
) -> dict[str, float | None]:
    """Mean metrics and average MACs of one network."""
    metrics, gates = [], []
    for clean, noisy in recordings:
        estimate = enhance(engine, noisy, listener=lambda _, g, __: gates.append(g))
        metrics.append((pesq_wb(clean, estimate), si_sdr(clean, estimate), stoi(clean, estimate)))
    used = float(np.concatenate(gates).mean()) if engine.gate_shape[1] else None
    pesq, sdr, intelligibility = np.mean(metrics, axis=0)
    return {
        "pesq": float(pesq),
        "si_sdr_db": float(sdr),
        "stoi": float(intelligibility),
        "utilisation": used,
        "mmac_per_s": count_macs(engine.header["dims"]).mmac_per_s(1.0 if used is None else used),
    }


def microseconds_a_frame(engines: dict[str, Engine], x: np.ndarray) -> dict[str, float]:
    """Best of ten interleaved runs over one minute of noisy speech, in files' block size."""
    frames = analyse(x)
    best = dict.fromkeys(engines, np.inf)
    for _ in range(10):
        for name, engine in engines.items():
            started = time.perf_counter()
            engine.step(frames, engine.initial_state())
            best[name] = min(best[name], (time.perf_counter() - started) / len(frames) * 1e6)
    return best


def draw(points: dict[str, dict[str, Any]], path: Path) -> None:
    """PESQ, SI-SDR and STOI against average MMAC/s and against time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    split = "test" if all("test" in point for point in points.values()) else "valid"
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharey="col", layout="constrained")
    metrics = (("pesq", "WB-PESQ"), ("si_sdr_db", "SI-SDR / dB"), ("stoi", "STOI"))
    for family in dict.fromkeys(name.rsplit("-", 1)[0] for name in points):
        own = [p for name, p in points.items() if name.rsplit("-", 1)[0] == family]
        for column, (metric, label) in enumerate(metrics):
            y = [p[split][metric] for p in own]
            axes[0, column].plot([p[split]["mmac_per_s"] for p in own], y, "o-", label=family)
            axes[1, column].plot([p["us_a_frame"] for p in own], y, "o-", label=family)
            axes[0, column].set(xlabel="average MMAC/s", ylabel=label)
            axes[1, column].set(xlabel="engine, µs a frame", ylabel=label)
    axes[0, 0].legend()
    figure.suptitle(f"{split} mixtures")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
