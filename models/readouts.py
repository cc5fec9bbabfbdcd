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
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ..audio.stft import BINS
from .gating import smooth_over_time

SNR_LIMITS_DB = (-20.0, 30.0)
_AUDIBLE_DB = 25.0  # above this SNR no listener names the noise
_SHORT, _LONG = 5, 63  # frames: 80 ms, 1 s
_PENALTY = 2.5  # of PESQ, about its mean
_LOWEST_BIN = 2  # below are DC offset and rumble


class Readouts(nn.Module):
    """Voice activity, SNR, SI-SDR, PESQ, gender and noise category from the gates.

    Parameters
    ----------
    gates : gates of the network, I * C.
    genders, categories : classes of each; there may be no gender.
    """

    def __init__(self, gates: int, genders: int, categories: int):
        super().__init__()
        self.sizes = [1, 1, 1, 2, max(genders, 1), categories]
        self.linear = nn.Linear(gates, sum(self.sizes))
        nn.init.zeros_(self.linear.weight)

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

        def far(estimate: Tensor, frames: int, of: Tensor) -> Tensor:
            return over_speech((smooth_over_time(estimate[..., 0], frames) - of / 10) ** 2)

        of_window = ratio_db(_LONG)
        speaks = active.any(1)
        heard = speaks & (labels[:, 0] >= 0)
        whole = gender.transpose(1, 2), category.transpose(1, 2)  # (B, classes, L)
        gender, category = (_smooth(x, _LONG) for x in whole)
        noticed = (labels[:, 1:] >= 0) & (of_window < _AUDIBLE_DB)
        on = smooth_over_time(vad[..., 0], _SHORT)
        wrong = ((pesq.mean(1) - (penalties - _PENALTY)) ** 2).mean(1)  # (B,)
        return (
            3 * binary_cross_entropy_with_logits(on, active.to(on.dtype))
            + far(snr, 1, ratio_db(1))
            + 2 * far(si_sdr, _LONG, of_window)
            + 3 * (wrong * speaks).sum() / speaks.sum().clamp(min=1)
            + 0.5 * over_speech(_classes(gender, labels[:, 0]) * heard[:, None])
            + 1.5 * (_classes(category, labels[:, 1]) * noticed).mean()
        )


def voice_activity(power: Tensor, threshold_db: float = -25.0) -> Tensor:
    """As `probes.targets.voice_activity`, from the (B, L) power of clean speech at unit level."""
    envelope = smooth_over_time((power + 1e-12).sqrt(), _SHORT)
    coarse = (envelope > 10 ** (threshold_db / 20)).to(power.dtype)
    return smooth_over_time(coarse, 11) > 0.5


def _smooth(x: Tensor, frames: int) -> Tensor:
    return smooth_over_time(x.flatten(0, 1), frames).view_as(x)


def _classes(logits: Tensor, label: Tensor) -> Tensor:
    """(B, L) cross entropy of (B, classes, L) logits; the label is one an item."""
    frames = logits.shape[-1]
    return cross_entropy(logits, label.clamp(min=0)[:, None].expand(-1, frames), reduction="none")
