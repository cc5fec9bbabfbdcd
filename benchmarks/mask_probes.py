"""The figures of "From Diet to Free Lunch" for a model of this project, as pictures and JSON.

    python -m benchmarks.mask_probes DATA/ [--model NAME] [--minutes 30] [--out docs/mask-probes]

Fig. 3: scores by task and feature set. Fig. 4: t-SNE of the masks. Fig. 5: coefficients by block.
Fig. 6: speaker verification. Probes are fitted frame by frame with l2 = 0.01 as in the paper, on
the first 30 minutes of the training stream, and scored on the held-out stream; beside them stand
the shipped probes (or those of --probes), which read spans of frames and were fitted on more.
"valid" is not looked at. Streams, targets and PESQ are those of `dynse fit-probes DATA --minutes
240 --exclude ...`: the same options find them in the cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynse.models.checkpoint import DEFAULT
from dynse.models.engine import Engine, load
from dynse.probes import fitting, speakers
from dynse.probes.features import SOURCES, informative
from dynse.probes.fit import Split, load_split
from dynse.probes.fitting import L2, TASKS, Linear, Task, frame_by_frame
from dynse.probes.probe_file import load_probes, load_shipped

PAPER = {
    "vad": ("accuracy", 0.93),
    "category": ("accuracy", 0.59),
    "pesq_input": ("mae", 0.2),
    "si_sdr_input_db": ("mae", 3.2),
}
"""Printed in the paper for its top-64 binary features (6 noise classes there, 7 here)."""

TITLES = {
    "spectrum": "noisy log-magnitude",
    "suppression": "suppression mask",
    "masks": "all masks",
    "top64": "top-64 masks",
    "first2": "first two blocks",
    "scores": "raw scores",
    "shipped": "shipped: spans of frames (ours)",
}


def say(text: str) -> None:
    """Progress, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def usable(split: Split, tasks: Sequence[Task]) -> list[Task]:
    """Tasks with targets of more than one class."""
    found = []
    for task in tasks:
        rows, y = fitting.truth(split.stream, task)
        if rows.sum() > 100 and (task.kind == "value" or len(np.unique(y[rows])) > 1):
            found.append(task)
    return found


def feature_sets(
    engine: Engine, train: Split, kept: np.ndarray
) -> dict[str, tuple[str, np.ndarray]]:
    """Name -> source and columns; the top-64 are added once the full set has been fitted."""
    bins = np.arange(train.features["spectrum"].width)
    first_two = kept[kept < 2 * engine.gate_shape[1]]
    return {
        "spectrum": ("spectrum", bins),
        "suppression": ("suppression", bins),
        "masks": ("masks", kept),
        "first2": ("masks", first_two),
        "scores": ("scores", kept),
    }


def figure3(engine: Engine, train: Split, test: Split) -> tuple[dict[str, Any], list[Linear]]:
    """Scores by feature set and task, and the models of the top-64."""
    kept = informative(train.masks)
    tasks = usable(train, frame_by_frame(TASKS))
    results: dict[str, Any] = {}

    def run(name: str, source: str, columns: np.ndarray) -> list[Linear]:
        fitted = []
        for task in tasks:
            say(f"{name}: {task.title} on {len(columns)} features")
            model = fitting.fit_task(train.stream, train.features[source], task, columns, L2)
            baseline = fitting.majority_or_mean(train.stream, task, train.computed)
            found = fitting.score(test.stream, test.features[source], model, baseline)
            results.setdefault(name, {})[task.name] = {**found, "features": len(columns)}
            fitted.append(model)
        return fitted

    top: list[Linear] = []
    for name, (source, columns) in feature_sets(engine, train, kept).items():
        models = run(name, source, columns)
        if name == "masks":
            top = run("top64", "masks", fitting.rank_by_coefficients(models, 64))
    return results, top


def draw3(results: dict[str, Any], target: Path) -> None:
    """Six panels: accuracy, F1, ROC-AUC; R2, MAE and RMSE by IQR."""
    figure, axes = _figure(2, 3, (15, 8))
    names = [name for name in TITLES if name in results]
    panels = (
        ("accuracy", "flag class", "baseline_accuracy"), ("f1", "flag class", None),
        ("roc_auc", "flag class", None), ("r2", "value", None), ("mae_iqr", "value", None),
        ("rmse_iqr", "value", None),
    )  # fmt: skip
    for axis, (metric, kinds, base) in zip(axes.flat, panels, strict=True):
        some = [t for t in TASKS if t.kind in kinds.split() and t.name in results["masks"]]
        for i, name in enumerate(names):
            y = [results[name].get(t.name, {}).get(metric, np.nan) for t in some]
            x = np.arange(len(some)) + (i - len(names) / 2) * 0.08
            axis.plot(x, y, "o", ms=4, label=TITLES[name], color=f"C{i}")
        for k, task in enumerate(some):
            found = results["masks"][task.name]
            value = found.get(base) if base else None
            if metric == "mae_iqr":
                value = found["baseline_mae"] * found["mae_iqr"] / found["mae"]
            if value is not None:
                axis.plot([k - 0.4, k + 0.4], [value] * 2, "k:", lw=1)
        axis.set_xticks(range(len(some)), [t.title for t in some], rotation=30, ha="right")
        axis.set_title(metric.replace("_", "/").upper(), fontsize=10)
        axis.grid(alpha=0.3)
        if metric == "r2":
            axis.set_ylim(max(-0.2, axis.get_ylim()[0]), 1)
        for k, task in enumerate(some):
            wanted, published = PAPER.get(task.name, ("", 0.0))
            if metric == wanted or metric == f"{wanted}_iqr":
                found = results["masks"][task.name]
                scale = found["mae_iqr"] / found["mae"] if metric.endswith("iqr") else 1.0
                label = "paper, top 64" if task.name == "vad" else None
                axis.plot(k, published * scale, "kx", ms=7, label=label)
    axes.flat[0].legend(fontsize=6)
    figure.suptitle("held-out scores by feature set; dotted: baseline, crosses: paper", fontsize=11)
    figure.savefig(target, dpi=90)


def draw4(test: Split, kept: np.ndarray, target: Path, points: int, seed: int = 0) -> None:
    """t-SNE of the top 32 principal components of some held-out frames."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    stream = test.stream
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(stream.frames)[:points])
    x = np.empty((len(rows), len(kept)), np.float32)
    for place, block in test.masks.blocks(kept):
        mine = (rows >= place.start) & (rows < place.stop)
        x[mine] = block[rows[mine] - place.start]
    x = PCA(32, random_state=seed).fit_transform(x)
    say(f"t-SNE of {len(rows)} frames")
    at = TSNE(2, init="pca", random_state=seed).fit_transform(x)
    figure, axes = _figure(2, 3, (14, 9))
    vad = np.asarray(stream.targets["vad"])[rows]
    panels = [
        ("voice activity", vad.astype(float), None, "coolwarm"),
        ("gender", np.where(vad, stream.labels["gender"][rows], np.nan), None, "coolwarm"),
        ("noise category", stream.labels["category"][rows].astype(float), (0, 6), "tab10"),
        ("input SNR, dB", stream.targets["snr_input_db"][rows], (-30, 30), "viridis"),
        ("input SI-SDR, dB", stream.targets["si_sdr_input_db"][rows], (-10, 25), "viridis"),
        ("enhanced PESQ", stream.targets["pesq_enhanced"][rows], (1, 3.5), "viridis"),
    ]
    for axis, (title, value, limits, colours) in zip(axes.flat, panels, strict=True):
        value = np.asarray(value, float)
        known = np.isfinite(value) & ~((title == "noise category") & (value < 0))
        axis.plot(*at[~known].T, ".", ms=1, color="0.9")
        low, high = limits or (None, None)
        drawn = axis.scatter(
            *at[known].T, c=value[known], s=2, cmap=colours, vmin=low, vmax=high, lw=0
        )
        figure.colorbar(drawn, ax=axis)
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(target, dpi=60)


def draw5(models: list[Linear], engine: Engine, target: Path) -> dict[str, Any]:
    """Coefficients times their feature's deviation, of unit norm, by gate and output."""
    columns = models[0].columns
    order = np.argsort(columns)
    rows, labels = [], []
    for model in models:
        scaled = model.weights * model.std[:, None]
        scaled /= np.maximum(np.linalg.norm(scaled, axis=0), 1e-12)
        names = model.classes if scaled.shape[1] > 1 else ("",)
        for k, name in enumerate(names):
            rows.append(scaled[order, k])
            labels.append(f"{model.task.title} {name}".strip())
    figure, axes = _figure(1, 1, (13, 7))
    axis = axes.flat[0]
    image = axis.imshow(np.stack(rows), aspect="auto", cmap="bwr", vmin=-0.5, vmax=0.5)
    figure.colorbar(image, ax=axis)
    axis.set_yticks(range(len(labels)), labels, fontsize=7)
    blocks = columns[order] // engine.gate_shape[1]
    for k in np.flatnonzero(np.diff(blocks)):
        axis.axvline(k + 0.5, color="k", lw=0.5)
    starts = [int(np.flatnonzero(blocks == b)[0]) for b in np.unique(blocks)]
    axis.set_xticks(starts, [f"block {b + 1}" for b in np.unique(blocks)], fontsize=7)
    figure.savefig(target, dpi=80)
    return {
        "gates": columns[order].tolist(),
        "outputs": labels,
        "coefficients": np.round(np.stack(rows), 4).tolist(),
        "gates_by_block": np.bincount(blocks, minlength=engine.gate_shape[0]).tolist(),
    }


def figure6(
    train: Split, test: Split, sets: dict[str, tuple[str, np.ndarray]], target: Path
) -> dict[str, Any]:
    """EER by feature set and number of enrolment utterances."""
    found = {}
    for name, (source, columns) in sets.items():
        say(f"speakers: {name}")
        parts = [
            speakers.embed(split.stream, split.features[source], columns) for split in (train, test)
        ]
        found[name] = {str(k): v for k, v in speakers.verify(*parts).items()}
    figure, axes = _figure(1, 1, (6, 4))
    for name, rates in found.items():
        y = [rates[k]["eer"] for k in sorted(rates)]
        axes.flat[0].plot([int(k) for k in sorted(rates)], y, "o-", label=TITLES[name])
    axes.flat[0].set_xticks([1, 2, 3])
    axes.flat[0].set_xlabel("enrolment utterances")
    axes.flat[0].set_ylabel("EER")
    axes.flat[0].legend(fontsize=7)
    figure.savefig(target, dpi=80)
    return found


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(v) for v in x]
    if isinstance(x, float | np.floating):
        return round(float(x), 4) if np.isfinite(x) else None
    return int(x) if isinstance(x, np.integer) else x


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--probes", type=Path, help="default: the shipped ones")
    parser.add_argument("--minutes", type=float, default=240.0, help="of fit-probes")
    parser.add_argument("--pesq-minutes", type=float, default=20.0, help="of fit-probes")
    parser.add_argument("--exclude", action="append", default=[], help="of fit-probes")
    parser.add_argument("--fit-minutes", type=float, default=30.0, help="to fit on here")
    parser.add_argument("--max-rows", type=int, default=12_000, help="for logistic regression")
    parser.add_argument("--points", type=int, default=3000, help="of the t-SNE")
    parser.add_argument("-j", "--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/mask-probes"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    fitting.MAX_ROWS = options.max_rows
    engine = load(options.model)
    train, test = (
        load_split(
            options.data, split, engine, options.minutes, pesq_minutes=options.pesq_minutes,
            jobs=options.jobs, sources=SOURCES, exclude=options.exclude,
            first_minutes=options.fit_minutes, say=say,
        )
        for split in ("train", "test")
    )  # fmt: skip
    assert train is not None
    assert test is not None
    test.stream.align(train.stream.classes)
    kept = informative(train.masks)
    report: dict[str, Any] = {
        "model": {"name": engine.name, "sha256": engine.sha256},
        "minutes": {"train": train.minutes, "test": test.minutes},
        "gates": {"all": train.masks.width, "informative": len(kept)},
        "classes": train.stream.classes,
        "paper_top64": PAPER,
    }
    report["scores"], top = figure3(engine, train, test)
    report["coefficients"] = draw5(top, engine, options.out / "coefficients.png")
    sets = feature_sets(engine, train, kept)
    del sets["suppression"]
    sets["top64"] = ("masks", top[0].columns)
    report["speakers"] = figure6(train, test, sets, options.out / "speakers.png")
    draw4(test, kept, options.out / "tsne.png", options.points)
    probes = (
        load_probes(options.probes) if options.probes else load_shipped(engine.name, engine.sha256)
    )
    report["probes"] = {"name": probes.name, "sha256": probes.sha256}
    report["scores"]["shipped"] = {
        probe.name: probe.scores["held_out"]
        for probe in probes.probes
        if probe.scores and "held_out" in probe.scores
    }
    draw3(report["scores"], options.out / "scores.png")
    text = json.dumps(_plain(report), indent=1, allow_nan=False)
    (options.out / "scores.json").write_text(text + "\n")
    for task in TASKS:
        cells = [
            f"{name} {found[task.name].get('accuracy', found[task.name].get('mae')):.3f}"
            for name, found in report["scores"].items()
            if task.name in found
        ]
        print(f"{task.title}: {', '.join(cells)}")


if __name__ == "__main__":
    main()
