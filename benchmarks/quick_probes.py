"""How much linear probes read from the gates of some checkpoints, in minutes: to compare variants.

    python -m benchmarks.quick_probes DATA/ run_a/best.safetensors run_b/best.safetensors

Ten minutes of the split "train" to fit on, ten of "valid" to score on, without PESQ, which takes
most of the time of a full fit; mixtures and targets are cached, so only the first run computes
them. The networks run in torch, so that gates which the compiled engine does not know can be
measured too. Penalties are fixed: nothing is chosen on the frames that are scored. Figures are for
comparison with each other, on little data; those of `dynse fit-probes` are the ones to quote.
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
from numpy.typing import NDArray

from dynse.audio.corpus import load_corpus
from dynse.models.checkpoint import DEFAULT, read
from dynse.models.checkpoint import load_network as load_torch
from dynse.models.compute import count_macs
from dynse.probes import fitting
from dynse.probes.data import LabelledStream, StreamConfig, build_stream
from dynse.probes.features import Features, collect, informative

TASKS = ("vad", "snr_input_db", "si_sdr_input_db", "f0_hz", "gender", "category")


class TorchModel:
    """A checkpoint behind the interface of `models.engine.Engine`, in torch."""

    def __init__(self, name: str):
        checkpoint = read(name)
        self.name, self.sha256 = str(checkpoint.header["name"]), checkpoint.sha256
        self.header = checkpoint.header
        self._network = load_torch(checkpoint)
        self.gate_shape = self._network.gate_shape

    def initial_state(self) -> Any:
        """State before the first frame."""
        return self._network.initial_state()

    @torch.inference_mode()
    def step(
        self, frames: NDArray[np.complex64], state: Any, scores: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], Any]:
        """As `Engine.step`."""
        out = self._network(torch.from_numpy(np.ascontiguousarray(frames))[None], state)
        if scores is not None:
            scores[...] = out.scores[0].numpy()
        return out.mask[0].numpy(), out.gates[0].numpy().astype(np.uint8), out.state


def measure(
    name: str, train: LabelledStream, valid: LabelledStream, count: int, l2: float
) -> dict[str, Any]:
    """Scores of one checkpoint by task."""
    model: Any = TorchModel(name)
    masks: list[Features] = []
    for stream in (train, valid):
        blocks = (noisy for _, noisy in stream.blocks())
        masks.append(collect(model, blocks)["masks"])
    kept = informative(masks[0])
    tasks = [task for task in fitting.TASKS if task.name in TASKS]
    columns = fitting.select(train, masks[0], kept, tasks, count)
    mean, deviation = masks[1].mean_and_std()
    macs = count_macs(model.header["dims"])
    found: dict[str, Any] = {
        "informative": len(kept),
        "std>0.1": int((deviation > 0.1).sum()),
        "utilisation": float(mean.mean()),
        "mmac_per_s": macs.mmac_per_s(float(mean.mean())),
    }
    for task in tasks:
        fitted = fitting.fit_task(train, masks[0], task, columns, l2)
        score = fitting.score(valid, masks[1], fitted, fitting.majority_or_mean(train, task))
        names = ("mae", "baseline_mae", "r2") if task.kind == "value" else (
            "accuracy", "baseline_accuracy", "roc_auc")  # fmt: skip
        found[task.name] = {key: score[key] for key in names}
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model", nargs="*", default=[DEFAULT], help="names or checkpoint files")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--gates", type=int, default=64, help="how many the probes read")
    parser.add_argument("--l2", type=float, default=300.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = StreamConfig(minutes=options.minutes, pesq_minutes=0.0)
    train, valid = (
        build_stream(load_corpus(options.data, split), config) for split in ("train", "valid")
    )
    valid.align(train.classes)
    found = {}
    for name in options.model:
        started = time.perf_counter()
        found[name] = measure(name, train, valid, options.gates, options.l2)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, scores in found.items():
        print(
            f"{name}: {scores['informative']} gates above tau, {scores['std>0.1']} above 0.1;"
            f" utilisation {scores['utilisation']:.3f}, {scores['mmac_per_s']:.1f} MMAC/s"
        )
        for task, score in scores.items():
            if isinstance(score, dict):
                print(f"  {task:16}", "  ".join(f"{k} {v:.3f}" for k, v in score.items()))


if __name__ == "__main__":
    main()
