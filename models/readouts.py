"""Linear readouts of the gates in training, so that probes find afterwards what they look for.

A gate that opens or closes at no cost to the sound may as well say something. So while the network
trains, a linear map of its gates is asked what the probes will be asked, and the error of its
answers is one more loss. The map is thrown away at the end: probes are fitted to the finished
network, on other mixtures. It costs nothing at run time.

The papers' masks say what they say without being asked to; `LossConfig.readout_weight` 0 is that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, conv1d, cross_entropy

from ..audio.stft import BINS
from .gating import smooth_over_time

SNR_LIMITS_DB = (-20.0, 30.0)
_AUDIBLE_DB = 25.0  # above this SNR no listener names the noise
_SPANS = ((-31, -7), (-6, -2), (-1, 1), (2, 6), (7, 31))  # frames averaged, as by the probes
_LONG = 63  # frames: 1 s
_PENALTY = 2.5  # of PESQ, about its mean
_LOWEST_BIN = 2  # below are DC offset and rumble


class Readouts(nn.Module):
    """Voice activity, SNR, SI-SDR, PESQ, gender and noise category from the gates.

    Parameters
    ----------
    gates : gates of the network, I * C.
    genders, categories : classes of each; there may be no gender.
    """

    kernel: Tensor  # (spans, 1, frames)

    def __init__(self, gates: int, genders: int, categories: int):
        super().__init__()
        self.sizes = [len(_SPANS), len(_SPANS), 1, 2, max(genders, 1), categories]
        self.linear = nn.Linear(gates, sum(self.sizes))
        nn.init.zeros_(self.linear.weight)
        reach = max(-_SPANS[0][0], _SPANS[-1][1])
        kernel = torch.zeros(len(_SPANS), 1, 2 * reach + 1)
        for k, (first, last) in enumerate(_SPANS):
            kernel[k, 0, first + reach : last + reach + 1] = 1
        self.register_buffer("kernel", kernel, persistent=False)

    def loss(
        self, gates: Tensor, noisy: Tensor, clean: Tensor, labels: Tensor, penalties: Tensor
    ) -> Tensor:
        """Weighted sum of the errors of all readouts.

        Parameters
        ----------
        gates : (B, L, I, C) in {0, 1}.
        noisy, clean : (B, L, F, 2) real and imaginary parts, at unit active level of the speech.
        labels : (B, 2) numbers of gender and noise category, -1 where there is none.
        penalties : (B, 2) of `perceptual`, of the noisy and of the enhanced sound.
        """
        speech, noise = (
            x[:, :, _LOWEST_BIN:].square().sum((-2, -1)) / BINS for x in (clean, noisy - clean)
        )  # (B, L), 1 at unit RMS
        active = voice_activity(speech)
        said = self.linear(gates.flatten(2))  # (B, L, outputs)
        vad, snr, si_sdr, pesq, gender, category = said.split(self.sizes, -1)

        def over_speech(error: Tensor) -> Tensor:
            return (error * active).sum() / active.sum().clamp(min=1)

        def ratio_db(frames: int) -> Tensor:
            s, n = (smooth_over_time(x, frames) + 1e-7 for x in (speech, noise))
            return (10 * torch.log10(s / n)).clamp(*SNR_LIMITS_DB)

        def far(estimate: Tensor, of_db: Tensor) -> Tensor:
            return over_speech((estimate - of_db / 10) ** 2)

        of_window = ratio_db(_LONG)
        speaks = active.any(1)
        heard = speaks & (labels[:, 0] >= 0)
        whole = gender.transpose(1, 2), category.transpose(1, 2)  # (B, classes, L)
        gender, category = (_smooth(x, _LONG) for x in whole)
        noticed = (labels[:, 1:] >= 0) & (of_window < _AUDIBLE_DB)
        speech_on = active.to(said.dtype)
        wrong = ((pesq.mean(1) - (penalties - _PENALTY)) ** 2).mean(1)  # (B,)
        return (
            6 * binary_cross_entropy_with_logits(self._around(vad), speech_on)
            + far(self._around(snr), ratio_db(1))
            + 2 * far(smooth_over_time(si_sdr[..., 0], _LONG), of_window)
            + 3 * (wrong * speaks).sum() / speaks.sum().clamp(min=1)
            + 0.5 * over_speech(_classes(gender, labels[:, 0]) * heard[:, None])
            + 3 * (_classes(category, labels[:, 1]) * noticed).mean()
        )

    def _around(self, x: Tensor) -> Tensor:
        """(B, L, spans) -> (B, L): sum of the means over each span of the frames that there are."""
        half, spans = self.kernel.shape[-1] // 2, len(self.kernel)
        x = x.transpose(1, 2)
        sums, counts = (
            conv1d(y, self.kernel, padding=half, groups=spans) for y in (x, torch.ones_like(x[:1]))
        )
        return (sums / counts.clamp(min=1)).sum(1)


def voice_activity(power: Tensor, threshold_db: float = -25.0) -> Tensor:
    """As `probes.targets.voice_activity`, from the (B, L) power of clean speech at unit level."""
    envelope = smooth_over_time((power + 1e-12).sqrt(), 5)
    coarse = (envelope > 10 ** (threshold_db / 20)).to(power.dtype)
    return smooth_over_time(coarse, 11) > 0.5


def _smooth(x: Tensor, frames: int) -> Tensor:
    return smooth_over_time(x.flatten(0, 1), frames).view_as(x)


def _classes(logits: Tensor, label: Tensor) -> Tensor:
    """(B, L) cross entropy of (B, classes, L) logits; the label is one an item."""
    frames = logits.shape[-1]
    return cross_entropy(logits, label.clamp(min=0)[:, None].expand(-1, frames), reduction="none")
