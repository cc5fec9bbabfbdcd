import numpy as np
import torch

from dynse.audio.mixing import active_level
from dynse.models.readouts import Readouts, voice_activity
from dynse.models.spectra import spectrum
from dynse.probes import targets


def stft(x):
    return torch.view_as_real(spectrum(torch.from_numpy(x)[None])) / 16


def test_voice_activity_is_that_of_the_probes(speechlike):
    quiet = np.float32(0.02) * speechlike
    x = np.concatenate([np.zeros(8000, "f4"), speechlike, np.zeros(6000, "f4"), quiet])
    x /= np.float32(active_level(x))
    found = voice_activity(stft(x).square().sum((-2, -1)) / 257)[0].numpy()
    expected = targets.voice_activity(x, 1.0)
    count = min(len(found), len(expected))
    assert 0.2 < expected.mean() < 0.9
    assert np.mean(found[:count] == expected[:count]) > 0.97


def of_gates_that_tell(speechlike, labels, penalties):
    """Loss as a function of what the map says; gate k is open in the frames of item k alone."""
    speech = speechlike[:32000] / np.float32(active_level(speechlike))
    clean = stft(speech).repeat(2, 1, 1, 1)
    torch.manual_seed(0)
    noisy = clean + torch.randn_like(clean) * torch.tensor([1.0, 0.1])[:, None, None, None]
    gates = torch.zeros(2, clean.shape[1], 1, 3)
    gates[0, ..., 0] = gates[1, ..., 1] = 1
    readouts = Readouts(3, 2, 4)
    optimiser = torch.optim.Adam(readouts.parameters(), lr=0.05)
    losses = []
    for _ in range(400):
        loss = readouts.loss(gates, noisy, clean, torch.tensor(labels), torch.tensor(penalties))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    with torch.no_grad():
        said = readouts.linear(torch.eye(3)[:2]).split(readouts.sizes, -1)
    return losses, said


def test_a_map_learns_what_each_item_is(speechlike):
    labels, penalties = [[1, 2], [0, 3]], [[3.0, 2.0], [1.0, 0.5]]
    losses, (_, snr, si_sdr, pesq, gender, category) = of_gates_that_tell(
        speechlike, labels, penalties
    )
    assert losses[-1] < 0.6 * losses[0]
    assert snr[1].sum() > snr[0].sum() + 1  # tens of dB, over all spans: 20 dB apart
    assert si_sdr[1] > si_sdr[0] + 1.5
    torch.testing.assert_close(pesq + 2.5, torch.tensor(penalties), atol=0.1, rtol=0)
    assert gender.argmax(1).tolist() == [1, 0]
    assert category.argmax(1).tolist() == [2, 3]


def test_spans_are_averaged_over_the_frames_there_are():
    readouts = Readouts(3, 2, 4)
    ones = readouts._around(torch.ones(1, 80, 5))[0]
    torch.testing.assert_close(ones[31:-31], torch.full((18,), 5.0))
    assert ones[0].item() == 3.0  # two spans lie before the beginning
    ahead = torch.zeros(1, 80, 5)
    ahead[0, 40, 4] = 1  # seen by the frames 7 to 31 before it
    seen = readouts._around(ahead)[0].nonzero()[:, 0]
    assert seen.tolist() == list(range(9, 34))


def test_what_is_not_known_teaches_nothing():
    torch.manual_seed(0)
    readouts = Readouts(3, 0, 4)
    noise, silence = torch.randn(2, 50, 257, 2), torch.zeros(2, 50, 257, 2)
    gates, unknown = torch.ones(2, 50, 1, 3), torch.full((2, 2), -1)
    readouts.loss(gates, noise, silence, unknown, torch.zeros(2, 2)).backward()
    gradient = readouts.linear.bias.grad
    vad = readouts.sizes[0]
    assert gradient[:vad].all()  # that nobody speaks is known
    assert not gradient[vad:].any()
