"""Training of Conv-FSENet on mixtures made on the fly.

The state file holds all that the next step depends on, and mixture number i is a function of the
seed alone, so a killed run goes on as if it had not been killed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..audio.corpus import Corpus
from ..audio.errors import DynseError
from ..audio.metrics import package
from ..audio.mixing import MixConfig, Mixer
from ..audio.stft import HOP, WINDOW
from .capture import Captured
from .checkpoint import load_network, read, save_network
from .conv_fsenet import ConvFSENet, ConvFSENetConfig
from .feeds import Batch, Feed, feed
from .losses import (
    LossConfig,
    compressed_spectral_loss,
    goals,
    intelligibility_loss,
    si_sdr_loss,
    third_octaves,
    utilisation_loss,
)
from .perceptual import PerceptualDistance
from .readouts import Readouts
from .spectra import inverse, spectrum


class TrainingError(DynseError):
    """A run that cannot start or go on."""


@dataclass(frozen=True)
class TrainConfig:
    """All that a run depends on beside its data.

    ``bank`` is the number of voices, and of noises, that ``bank_steps`` steps draw their mixtures
    from, ``banks`` the number of such banks, used in turn (see `bank`); 0 means that every step
    mixes its own on the CPU. ``p_telephone`` is
    the share of mixtures that pass through a telephone's band, noisy and clean alike. Without
    ``valid_mixtures`` nothing is scored, and the last checkpoint is the best.
    """

    steps: int = 40_000
    batch: int = 16
    learning_rate: float = 2e-3
    warmup: int = 500
    final_learning_rate: float = 1e-5
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.999
    seed: int = 0
    target_utilisation: float = 0.25
    anneal_from: float = 0.6
    anneal_steps: int = 4_000
    bank: int = 0
    bank_steps: int = 3_000
    banks: int = 12
    p_telephone: float = 0.06
    valid_every: int = 2_000
    valid_mixtures: int = 96
    bf16: bool = False
    model: ConvFSENetConfig = field(default_factory=ConvFSENetConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    loss: LossConfig = field(default_factory=LossConfig)


LOSSES = ("total", "spectral", "si_sdr", "utilisation", "pesq", "intelligibility", "readouts")
"""What `Trainer` averages over the last hundred steps or so, and logs."""


def schedule(config: TrainConfig) -> Tensor:
    """What changes from step to step: (steps + 1, 4).

    Learning rate, goal of the mean utilisation, memory of the averaged weights (short at first: it
    must not carry the first steps for long), and weight of a step's losses in the log.
    """
    step = torch.arange(config.steps + 1, dtype=torch.float64)
    progress = (step - config.warmup).clamp(min=0) / max(1, config.steps - config.warmup)
    cosine = 0.5 * (1 + torch.cos(math.pi * progress.clamp(max=1)))
    low = config.final_learning_rate
    rate = low + (config.learning_rate - low) * cosine
    rate *= ((step + 1) / config.warmup).clamp(max=1)
    annealed = (step / max(1, config.anneal_steps)).clamp(max=1)
    target = config.anneal_from + annealed * (config.target_utilisation - config.anneal_from)
    decay = ((2 + step) / (11 + step)).clamp(max=config.ema)
    return torch.stack([rate, target, decay, (1 / (1 + step)).clamp(min=0.01)], 1).float()


class Trainer:
    """One training run in one folder.

    Parameters
    ----------
    config : of the run.
    train, valid : corpora; the latter may be None where nothing is to be scored.
    out : folder for ``state.pt``, ``log.jsonl``, ``best.safetensors`` and ``last.safetensors``.
    device : "cpu", "cuda", ... or "auto".
    workers : processes that mix.
    compiled : fuse the step with torch.compile, which needs a C++ compiler on a CPU.
    start_from : checkpoint whose weights a new run starts from.
    shared : feed of another run with the same mixtures; see `together`.

    Notes
    -----
    On a GPU the step is captured as a graph and replayed, or launching its kernels would take
    longer than running them. That holds for what a step does without the host looking on: so
    schedules are a table on the device, and losses are averaged there.
    """

    def __init__(
        self,
        config: TrainConfig,
        train: Corpus,
        valid: Corpus | None,
        out: Path,
        *,
        device: str = "auto",
        workers: int = 1,
        compiled: bool = True,
        start_from: str | Path | None = None,
        shared: Feed | None = None,
    ):
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if valid is not None and config.valid_mixtures:
            package("pesq")  # which the first validation needs: not after an hour
        self.config, self.out = config, out
        self.device = torch.device(device)
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self._before: list[dict[str, Any]] = []
        network = ConvFSENet(config.model)
        if start_from is not None:
            checkpoint = read(start_from)
            earlier = dict(checkpoint.header.get("training", {}))
            if checkpoint.after_training:
                earlier["after"] = checkpoint.after_training
            self._before = [*earlier.pop("before", []), earlier]
            loaded = load_network(checkpoint)
            if replace(loaded.config, estimator=config.model.estimator) != config.model:
                raise TrainingError(f"{start_from}: its dimensions are not those of this run")
            network.load_state_dict(loaded.state_dict())
        self.network = network.train().to(self.device)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        mixer = Mixer(train, config.mix, config.seed)
        clips = repr((train.speech, train.noise)).encode()
        self._data_key = hashlib.sha256(clips).hexdigest()
        self.readouts: Readouts | None = None
        if config.model.gated and config.loss.readout_weight:
            gates, classes = math.prod(self.network.gate_shape), (mixer.genders, mixer.categories)
            self.readouts = Readouts(gates, *map(len, classes)).to(self.device)
        self._trained = [*self.network.parameters()]
        if self.readouts is not None:
            self._trained += self.readouts.parameters()
        decayed = [p for p in self._trained if p.ndim >= 2]
        plain = [p for p in self._trained if p.ndim < 2]
        self._rate = torch.tensor(config.learning_rate, device=self.device)
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=self._rate,
            betas=(0.9, 0.99),
            fused=True,
            capturable=self.device.type == "cuda",
        )
        self.step, self.best = 0, -math.inf
        self.seconds = 0.0
        self._objective: Callable[..., tuple[Tensor, ...]] = self._losses
        if compiled:
            self._objective = torch.compile(self._losses)
        self.perceptual = PerceptualDistance().to(self.device)
        self._octaves = third_octaves().to(self.device)
        self.feed = shared or feed(config, mixer, self.network.features, self.device, workers)
        self._validation = None
        if valid is not None and config.valid_mixtures:
            self._validation = validation_set(valid, config)
        self._data = _describe(train, valid)
        self._statistics = torch.zeros(len(LOSSES), device=self.device)
        self._schedule = schedule(config).to(self.device)
        self._clock = torch.zeros(1, dtype=torch.long, device=self.device)
        self._batch: Batch | None = None
        self._update = Captured(self._update_on_device, self.device)
        if self.state_path.is_file():
            self._resume()

    @property
    def state_path(self) -> Path:
        """The file that a killed run goes on from."""
        return self.out / "state.pt"

    def run(
        self, until: float | None = None, on_step: Callable[[int], None] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Train to the last step; yield the record of each validation.

        Parameters
        ----------
        until : stop early, state saved, once `time.monotonic` passes this.
        on_step : called with the number of steps done.
        """
        config = self.config
        started = time.monotonic()
        for batch in self.feed.batches(self.step, config.steps):
            self.learn(batch)
            if self.device.type == "cuda" and self.step % 100 == 0:
                torch.cuda.synchronize(self.device)  # or the host would run far ahead
            if on_step is not None:
                on_step(self.step)
            now = time.monotonic()
            self.seconds, started = self.seconds + now - started, now
            stop = until is not None and now >= until
            if self.step % config.valid_every == 0 or self.step == config.steps or stop:
                yield self.checkpoint()
                started = time.monotonic()
            if stop:
                break

    def _losses(
        self, features: Tensor, noisy: Tensor, clean: Tensor, target: Tensor, labels: Tensor
    ) -> tuple[Tensor, ...]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            out = self.network.trunk(features, self.network.initial_state(len(features)))
        loss = self.config.loss
        estimate = out.mask[..., None] * noisy
        spectral = compressed_spectral_loss(estimate, clean, loss.compression, loss.alpha)
        si_sdr = si_sdr_loss(estimate, clean)
        gates = out.gates.float()
        utilisation = utilisation_loss(gates, target) if self.config.model.gated else 0 * spectral
        pesq = 0 * spectral
        penalty: Tensor | None = None
        if loss.pesq_weight:
            penalty = self.perceptual.penalty(estimate, clean)
            pesq = penalty.mean()
        intelligibility = 0 * spectral
        if loss.intelligibility_weight:
            intelligibility = intelligibility_loss(estimate, clean, self._octaves)
        readouts = 0 * spectral
        if self.readouts is not None:
            with torch.no_grad():
                if penalty is None:
                    penalty = self.perceptual.penalty(estimate, clean)
                penalties = torch.stack([self.perceptual.penalty(noisy, clean), penalty], 1)
            readouts = self.readouts.loss(gates, noisy, clean, labels, penalties)
        total = (
            loss.spectral_weight * spectral
            + loss.si_sdr_weight * si_sdr
            + loss.utilisation_weight * utilisation
            + loss.pesq_weight * pesq
            + loss.intelligibility_weight * intelligibility
            + loss.readout_weight * readouts
            + self._further_loss(out.mask, noisy)
        )
        return total, spectral, si_sdr, utilisation, pesq, intelligibility, readouts

    def _further_loss(self, mask: Tensor, noisy: Tensor) -> Tensor | float:
        """For experiments: what a subclass asks of the mask besides."""
        return 0.0

    def learn(self, batch: Batch) -> None:
        """One step. On a GPU the batch must lie where that of the first step lay."""
        self._batch = batch
        self._update()
        self.step += 1

    def _update_on_device(self) -> None:
        batch, config = self._batch, self.config
        assert batch is not None
        rate, target_mean, decay, news = self._schedule.index_select(0, self._clock)[0]
        target = goals(batch.shape, target_mean)
        losses = self._objective(batch.features, batch.noisy, batch.clean, target, batch.labels)
        losses[0].backward()
        norm = torch.nn.utils.clip_grad_norm_(self._trained, config.clip_norm)
        self._rate.copy_(rate)
        # A step whose gradient is not finite is skipped, as under GradScaler.
        self.optimiser.grad_scale = None  # type: ignore[attr-defined]
        self.optimiser.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            self._statistics += news * (torch.stack(losses) - self._statistics)
            for mean, value in (
                (self.average.parameters(), self.network.parameters()),
                (self.average.buffers(), self.network.buffers()),
            ):
                pairs = [(a, b) for a, b in zip(mean, value, strict=True) if a.is_floating_point()]
                old, new = [a for a, _ in pairs], [b for _, b in pairs]
                change = torch._foreach_sub(new, old)
                torch._foreach_mul_(change, 1 - decay)
                torch._foreach_add_(old, change)
            self._clock += 1

    def checkpoint(self) -> dict[str, Any]:
        """Score the averaged weights, write them and the state file; return the log's record."""
        rate, target, _, _ = self._schedule[self.step].tolist()
        statistics = dict(zip(LOSSES, self._statistics.tolist(), strict=True))
        record: dict[str, Any] = {
            "step": self.step,
            "hours": round(self.seconds / 3600, 3),
            "learning_rate": rate,
            "target_utilisation": round(target, 4),
            "train": {name: round(value, 4) for name, value in statistics.items()},
            "valid": validate(self.average, *self._validation) if self._validation else {},
        }
        scores = record["valid"]
        header = {
            "name": self.out.resolve().name,
            "version": 1,
            "sample_rate": self.network.sample_rate,
            "stft": {"window": WINDOW, "hop": HOP, "shape": "sqrt-hann"},
            "data": self._data,
            "license": "not stated",
            "training": {
                "steps": self.step,
                "hours_of_audio": round(
                    self.step * self.config.batch * self.config.mix.seconds / 3600, 1
                ),
                "hours": record["hours"],
                "config": _plain(self.config),
                "before": self._before,
            },
            "scores": {"valid": scores},
            "libraries": {"torch": torch.__version__, "numpy": np.__version__},
        }
        save_network(self.out / "last.safetensors", self.average, header)
        # Both what the ear and what the waveform say, in proportion to their usual gains.
        score = scores["pesq"] + scores["si_sdr_db"] / 10 if scores else self.best
        if score >= self.best:
            self.best = score
            save_network(self.out / "best.safetensors", self.average, header)
        self._save_state()
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")
        return record

    def _save_state(self) -> None:
        state = {
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "statistics": self._statistics,
            "config": _identity(self.config),
            "data": self._data_key,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "readouts": self.readouts.state_dict() if self.readouts else {},
            "optimiser": self.optimiser.state_dict(),
            "random": torch.get_rng_state(),
        }
        partial = self.state_path.with_suffix(".part")
        torch.save(state, partial)
        os.replace(partial, self.state_path)

    def _resume(self) -> None:
        try:
            state = torch.load(self.state_path, map_location=self.device, weights_only=True)
            assert state["config"]
        except Exception as error:  # of a dozen kinds, none of which names the file
            raise TrainingError(f"{self.state_path}: damaged; begin another --out") from error
        if state["config"] != _identity(self.config):
            raise TrainingError(
                f"{self.state_path}: belongs to a run with other settings; "
                "give the same ones, or another --out"
            )
        if state.get("data") != self._data_key:
            raise TrainingError(
                f"{self.state_path}: belongs to a run on other data; begin another --out,"
                f" with --init {self.out / 'last.safetensors'} to keep what it has learnt"
            )
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self._statistics.copy_(state["statistics"])
        self._clock.fill_(self.step)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        if self.readouts is not None:
            self.readouts.load_state_dict(state["readouts"])
        self.optimiser.load_state_dict(state["optimiser"])
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate
        torch.set_rng_state(state["random"].cpu())


def together(trainers: Sequence[Trainer]) -> Iterator[list[dict[str, Any]]]:
    """Train networks side by side on the same batches, those of the first one's feed.

    They must have the same step, steps and bands; yields their records at each validation.
    """
    first = trainers[0]
    steps, every = first.config.steps, first.config.valid_every
    if any(t.step != first.step or t.config.steps != steps for t in trainers):
        raise TrainingError("runs at different steps cannot be trained together")
    for batch in first.feed.batches(first.step, steps):
        for trainer in trainers:
            trainer.learn(batch)
        if first.step % every == 0 or first.step == steps:
            yield [trainer.checkpoint() for trainer in trainers]


def _plain(config: TrainConfig) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def _identity(config: TrainConfig) -> str:
    """What a state file must agree with: all but how long to go and how often to look."""
    free = ("steps", "valid_every", "valid_mixtures")
    plain = {name: value for name, value in _plain(config).items() if name not in free}
    return json.dumps(plain, sort_keys=True)


def _describe(train: Corpus, valid: Corpus | None) -> dict[str, Any]:
    speech, noise = train.seconds()
    return {
        "speech_hours": round(speech / 3600, 2),
        "noise_hours": round(noise / 3600, 2),
        "licenses": train.licenses,
        "valid_speech_hours": round(valid.seconds()[0] / 3600, 2) if valid is not None else 0.0,
    }


_NO_EFFECTS: Any = {name: 0.0 for name in MixConfig.__dataclass_fields__ if name[:2] == "p_"}


def validation_set(
    valid: Corpus,
    config: TrainConfig,
    snr_db: tuple[float, float] = (-5.0, 20.0),
    seed: int = 20_000,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fixed mixtures as they are met outside: noisy, clean (N, n) and SNR (N,) in dB."""
    mixer = Mixer(valid, MixConfig(seconds=4.0, snr_db=snr_db, **_NO_EFFECTS), seed)
    mixtures = [mixer(i) for i in range(config.valid_mixtures)]
    return (
        torch.from_numpy(np.stack([m.noisy for m in mixtures])),
        torch.from_numpy(np.stack([m.clean for m in mixtures])),
        torch.tensor([m.snr_db for m in mixtures]),
    )


@torch.no_grad()
def validate(
    network: ConvFSENet, noisy: Tensor, clean: Tensor, snr_db: Tensor
) -> dict[str, float | None]:
    """Scores on fixed mixtures, mean over mixtures, of what the network makes of them.

    None is the mean over mixtures or frames of which there are none.

    ``si_sdr_db_over_snr_above_15`` is the SI-SDR of mixtures above 15 dB less their SNR: below 0
    the network harms good recordings.

    Gates: ``utilisation`` over all frames, in frames with and without speech; ``dynamic_gates``
    counts those with a standard deviation above 0.1; ``block_min`` and ``block_max`` are the
    extremes of the blocks' mean utilisations.
    """
    from ..audio.metrics import pesq_wb, si_sdr

    device = next(network.parameters()).device
    pesq, sdr, gates, present = [], [], [], []
    for start in range(0, len(noisy), 8):
        part = slice(start, start + 8)
        x = spectrum(noisy[part].to(device))
        out = network(x)
        estimate = inverse(out.mask * x, noisy.shape[1]).cpu().numpy()
        for e, c in zip(estimate, clean[part].numpy(), strict=True):
            pesq.append(pesq_wb(c, e))
            sdr.append(si_sdr(c, e))
        gates.append(out.gates.cpu())
        power = (spectrum(clean[part]).abs() ** 2).sum(-1)
        present.append(power > power.amax(1, keepdim=True) * 1e-4)
    scores = {
        "pesq": float(np.mean(pesq)),
        "si_sdr_db": float(np.mean(sdr)),
        "si_sdr_db_over_snr_above_15": float(torch.mean((torch.tensor(sdr) - snr_db)[snr_db > 15])),
    }
    if network.config.gated:
        g, p = torch.cat(gates), torch.cat(present)
        frame = g.mean((2, 3))
        low, high = snr_db < 2.5, snr_db > 12.5
        scores |= {
            "utilisation": float(frame.mean()),
            "utilisation_speech": float(frame[p].mean()),
            "utilisation_no_speech": float(frame[~p].mean()),
            "utilisation_low_snr": float(frame[low].mean()),
            "utilisation_high_snr": float(frame[high].mean()),
            "dynamic_gates": int((g.flatten(0, 1).std(0) > 0.1).sum()),
            "block_min": float(g.mean((0, 1, 3)).min()),
            "block_max": float(g.mean((0, 1, 3)).max()),
        }
    return {n: None if math.isnan(x) else round(x, 4) for n, x in scores.items()}
