"""`dynse train`: an enhancement model from clean speech and noise."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as given
from .loading import refusing
from .planning import RefusedError

if TYPE_CHECKING:
    from ..models.training import Trainer


class GateEstimator(StrEnum):
    """How the gradient passes the gates' threshold."""

    FAST_SIGMOID = "fast_sigmoid"
    STRAIGHT_THROUGH = "straight_through"
    GUMBEL = "gumbel"


def train(
    data: Annotated[
        Path, typer.Argument(help="Folder with clean/ and noise/, or speech.csv and noise.csv.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished one goes on.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps in all.")] = 40_000,
    batch: Annotated[int, typer.Option(min=1, help="Mixtures a step.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of a mixture.")] = 3.0,
    learning_rate: Annotated[float, typer.Option(help="Peak; cosine after a warm-up.")] = 2e-3,
    warmup: Annotated[int, typer.Option(min=1, help="Steps to the peak learning rate.")] = 500,
    anneal: Annotated[
        int, typer.Option(min=0, help="Steps over which the gates close from 0.6 to the target.")
    ] = 4_000,
    utilisation: Annotated[
        float, typer.Option(min=0.02, max=0.9, help="Target share of open gates.")
    ] = 0.25,
    hidden: Annotated[
        int | None, typer.Option(min=1, show_default="128", help="Gated channels a block.")
    ] = None,
    residual: Annotated[
        int | None, typer.Option(min=1, show_default="128", help="Channels between the blocks.")
    ] = None,
    static: Annotated[
        bool, typer.Option("--static", help="Train without gates, for comparison.")
    ] = False,
    estimator: Annotated[
        GateEstimator, typer.Option(help="Gradient of the gates.")
    ] = GateEstimator.FAST_SIGMOID,
    readouts: Annotated[
        bool,
        typer.Option(
            "--readouts/--no-readouts",
            help="Ask the gates what probes will: they tell more, at no cost later.",
        ),
    ] = True,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Corpus to leave out; may be repeated.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Start from these weights, with their dimensions."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and mixtures.")] = 0,
    bank: Annotated[
        int,
        typer.Option(
            min=0,
            help="Voices and noises that are drawn at once, kept on disk (0.3 MB a pair) and mixed "
            "anew for every step, on the device that trains; 0: every step draws its own. A GPU "
            "wants thousands.",
        ),
    ] = 0,
    valid_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 2_000,
    valid_mixtures: Annotated[
        int, typer.Option(min=0, help="Mixtures of a validation; 0: none, the last weights count.")
    ] = 96,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop, resumably, after this time.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that mix, or draw the bank.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the step on a CPU.")] = 1,
    bf16: Annotated[bool, typer.Option(help="Matrix products in bfloat16.")] = True,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Fuse the step with torch.compile.")
    ] = True,
    verbose: given.Verbose = False,
) -> None:
    """Train a gated Conv-FSENet on mixtures made on the fly.

    OUT holds state.pt (what a killed run goes on from, exactly), log.jsonl (a line a
    validation), best.safetensors and last.safetensors. Run the same command to resume; --steps
    may change.
    """
    import torch

    from ..audio.corpus import load_corpus
    from ..audio.mixing import MixConfig
    from ..models.checkpoint import read
    from ..models.conv_fsenet import ConvFSENetConfig
    from ..models.losses import LossConfig
    from ..models.training import TrainConfig, Trainer, TrainingError

    if init is not None and (static or hidden is not None or residual is not None):
        raise typer.BadParameter(
            "--init brings its own dimensions", param_hint="--hidden, --residual, --static"
        )
    torch.set_num_threads(threads)
    if init is None:
        model = ConvFSENetConfig(
            residual_channels=residual or 128, hidden_channels=hidden or 128, gated=not static
        )
    else:
        with refusing(init):
            model = ConvFSENetConfig.from_dict(read(init).header["dims"])
    excluded = tuple(exclude or ())
    config = TrainConfig(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        anneal_steps=anneal,
        warmup=warmup,
        target_utilisation=utilisation,
        seed=seed,
        bank=bank,
        valid_every=valid_every,
        valid_mixtures=valid_mixtures,
        bf16=bf16,
        model=replace(model, estimator=estimator.value),
        mix=MixConfig(seconds=seconds),
        loss=LossConfig() if readouts else LossConfig(readout_weight=0.0),
    )
    _say("reading the data (the first time it is decoded into a cache)")
    try:
        trainer = Trainer(
            config,
            load_corpus(data, "train", exclude=excluded),
            load_corpus(data, "valid", exclude=excluded),
            out,
            device=device,
            workers=workers,
            compiled=compiled,
            start_from=init,
        )
    except TrainingError as error:  # --out or --init is of other settings
        raise RefusedError(str(error)) from error
    if trainer.step >= steps:
        _say(f"{out}: all {steps} steps are done")
        return
    _say(f"steps {trainer.step}..{steps} on {trainer.device}; state in {trainer.state_path}")
    until = None if minutes is None else time.monotonic() + 60 * minutes
    if sys.stderr.isatty():
        _with_bar(trainer, until)
    else:
        for record in trainer.run(until):
            print(json.dumps(record), flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _with_bar(trainer: Trainer, until: float | None) -> None:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("training", total=trainer.config.steps, completed=trainer.step)

        def on_step(step: int) -> None:
            progress.update(task, completed=step)

        for record in trainer.run(until, on_step):
            progress.console.print(_line(record), highlight=False)


def _line(record: dict[str, Any]) -> str:
    valid = record["valid"]
    if not valid:
        return f"step {record['step']}: loss {record['train']['total']:.3f}"
    used = f", utilisation {valid['utilisation']:.3f}" if "utilisation" in valid else ""
    return (
        f"step {record['step']}: WB-PESQ {valid['pesq']:.3f}, "
        f"SI-SDR {valid['si_sdr_db']:.2f} dB{used}"
    )
