"""What each choice about the gates buys: one change at a time, same mixtures, equal steps.

    python -m benchmarks.ablations DATA/ --runs RUNS/ [--steps 1000] [--only NAME]
    python -m benchmarks.ablations DATA/ --runs RUNS/ --no-train [--readme]

The first command trains the variants side by side, each on every batch (killed, it goes on from
their state files); the second scores them on 192 validation mixtures, in torch, since the compiled
engine does not know all of them. "Other weights" is the base with another seed of its weights: what
differs by less than that tells nothing. The base is the default network with half of its gates as
goal, no readouts, and the schedule of `benchmarks.frontier`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynse.audio.corpus import load_corpus
from dynse.models.checkpoint import load_network, read
from dynse.models.compute import FRAMES_PER_SECOND, count_macs
from dynse.models.conv_fsenet import ConvFSENet, ConvFSENetConfig
from dynse.models.feeds import Batch
from dynse.models.gating import GatingSubnet
from dynse.models.losses import LossConfig
from dynse.models.training import TrainConfig, Trainer, together, validate, validation_set

from . import frontier
from .readme import renew, table

TEACHER = "dynse-25"
_SOFT_WEIGHT = 20.0


class HeldGates(GatingSubnet):
    """Decides at every other frame and holds it for two."""

    def forward(self, x: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """As `GatingSubnet.forward`; the first frame is one that decides."""
        scores, state = super().forward(x, history)
        return scores[:, ::2].repeat_interleave(2, 1)[:, : scores.shape[1]], state


def hold(network: ConvFSENet) -> None:
    """Let all blocks of a network decide at every other frame."""
    for block in network.blocks:
        block.gating.__class__ = HeldGates


class Holding(Trainer):
    """Trains with `HeldGates`."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        hold(self.network)
        hold(self.average)


class Uniform(Trainer):
    """Asks for as many gates in each frame, however hard it is."""

    def learn(self, batch: Batch) -> None:
        """One step."""
        super().learn(batch._replace(shape=torch.ones_like(batch.shape)))


class Distilled(Trainer):
    """Learns from the mask of a network that was trained for hours as well."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._teacher = load_network(TEACHER).eval().requires_grad_(False).to(self.device)
        self._teach = torch.compile(self._teacher.trunk)
        self._soft = torch.zeros(0, device=self.device)

    def learn(self, batch: Batch) -> None:
        """One step."""
        state = self._teacher.initial_state(len(batch.features))
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
            self._soft = self._teach(batch.features, state).mask.float().clone()
        super().learn(batch)

    def _further_loss(self, mask: Tensor, noisy: Tensor) -> Tensor:
        # Where there is sound, as the ear weighs it.
        loudness = noisy.square().sum(-1) ** 0.15
        return _SOFT_WEIGHT * ((mask - self._soft).square() * loudness).mean()


@dataclass(frozen=True)
class Variant:
    """One change to the base, and what a frame of its gating subnets costs."""

    what: str
    change: Callable[[TrainConfig], TrainConfig] = lambda config: config
    trainer: type[Trainer] = Trainer
    gating: float = 1.0


def _model(**changes: Any) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, model=replace(config.model, **changes))


def _loss(**changes: Any) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, loss=replace(config.loss, **changes))


VARIANTS = {
    "base": Variant("16 gating units a block, half of them pooled"),
    "other-weights": Variant("the same, another seed", lambda config: replace(config, seed=78)),
    "units-8": Variant("8 gating units a block", _model(gate_hidden=8, gate_fast=4)),
    "held": Variant("gates decide at every other frame", trainer=Holding, gating=0.5),
    "pooled": Variant("all units pooled, as in the paper", _model(gate_fast=0)),
    "straight-through": Variant("gradient: straight through", _model(estimator="straight_through")),
    "gumbel": Variant("gradient: Gumbel noise", _model(estimator="gumbel")),
    "closed-start": Variant(
        "the goal from the first step", lambda c: replace(c, anneal_from=c.target_utilisation)
    ),
    "uniform": Variant("the same goal for easy and hard frames", trainer=Uniform),
    "weight-8": Variant("utilisation weighed 8, not 40", _loss(utilisation_weight=8.0)),
    "readouts": Variant("gates asked what probes will", _loss(readout_weight=1.0)),
    "distilled": Variant(f"distilled from {TEACHER} as well", trainer=Distilled),
}


def recipe(name: str, steps: int, bank: int) -> TrainConfig:
    """The settings of one variant."""
    base = TrainConfig(
        steps=steps,
        warmup=min(300, steps // 10),
        anneal_from=0.95,
        anneal_steps=steps // 2,
        valid_every=max(1, steps // 4),  # to go on from
        valid_mixtures=0,
        target_utilisation=0.5,
        seed=77,
        bank=bank,
        bf16=True,
        model=ConvFSENetConfig(),
        loss=LossConfig(readout_weight=0.0),
    )
    return VARIANTS[name].change(base)


def train(names: list[str], options: argparse.Namespace, exclude: tuple[str, ...]) -> None:
    """Train variants to their last step, going on from where they stopped."""
    torch._dynamo.config.recompile_limit = 3 * len(names)  # the same code for every network
    corpus = load_corpus(options.data, "train", exclude=exclude)
    trainers: list[Trainer] = []
    for name in names:
        shared = trainers[0].feed if trainers else None
        config = recipe(name, options.steps, options.bank)
        kind = VARIANTS[name].trainer
        trainers.append(kind(config, corpus, None, options.runs / name, workers=0, shared=shared))
    if trainers[0].step < options.steps:
        for _ in together(trainers):
            pass


def report(runs: Path, data: Path, exclude: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Scores and costs of what is trained."""
    config = TrainConfig(valid_mixtures=frontier.VALID_MIXTURES)
    mixtures = validation_set(load_corpus(data, "valid", exclude=exclude), config)
    found: dict[str, dict[str, Any]] = {}
    for name, variant in VARIANTS.items():
        path = runs / name / "last.safetensors"
        if not path.is_file():
            continue
        checkpoint = read(path)
        network = load_network(checkpoint).eval()
        if variant.trainer is Holding:
            hold(network)
        scores = validate(network, *mixtures)
        dims = checkpoint.header["dims"]
        gating = count_macs(dims).fixed - count_macs({**dims, "gated": False}).fixed
        saved = (1 - variant.gating) * gating * FRAMES_PER_SECOND / 1e6
        found[name] = {
            "what": variant.what,
            "steps": checkpoint.header["training"]["steps"],
            "mmac_per_s": count_macs(dims).mmac_per_s(scores["utilisation"] or 0.0) - saved,
            **{k: scores[k] for k in ("pesq", "si_sdr_db", "utilisation", "utilisation_no_speech")},
        }
    if not found:
        raise SystemExit(f"{runs}: nothing trained yet")
    return found


def as_table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    head = ("", "average MMAC/s", "utilisation", "in pauses", "WB-PESQ", "SI-SDR dB")
    rows = [
        (
            row["what"],
            f"{row['mmac_per_s']:.1f}",
            f"{row['utilisation']:.2f}",
            f"{row['utilisation_no_speech']:.2f}",
            f"{row['pesq']:.3f}",
            f"{row['si_sdr_db']:.2f}",
        )
        for row in found.values()
    ]
    return table(head, rows)


def main() -> None:
    """Train what is missing, or score."""
    parser = frontier.command_line(__doc__.splitlines()[0], list(VARIANTS), steps=1_000)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--readme", action="store_true", help="renew the table of README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    exclude = tuple(options.exclude)
    if not options.no_train:
        train(options.only or list(VARIANTS), options, exclude)
        return
    found = report(options.runs, options.data, exclude)
    print(as_table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.readme:
        renew({"ablations": as_table(found)})


if __name__ == "__main__":
    main()
