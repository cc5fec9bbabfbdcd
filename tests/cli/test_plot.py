import numpy as np
import pytest
import soundfile

from dynse.cli.app import _run
from dynse.cli.plot import Decimator


@pytest.mark.parametrize("rows", [1, 7, 39, 40, 41, 1000, 12_345])
@pytest.mark.parametrize("piece", [1, 13, 5000])
def test_decimator_keeps_the_mean_in_bounded_memory(rows, piece):
    x = np.random.default_rng(0).uniform(size=(rows, 3))
    decimator = Decimator(columns=20)
    for start in range(0, rows, piece):
        decimator.push(x[start : start + piece])
    image = decimator.image()
    assert image.shape[0] == 3
    assert image.shape[1] < 40
    group = round(decimator.seconds_a_column * 16000 / 256)
    covered = min(rows, image.shape[1] * group)
    assert rows - covered < group
    np.testing.assert_allclose(image.mean(axis=1), x[:covered].mean(axis=0), atol=1e-9)


def test_plot_draws_a_picture(checkpoint_path, tmp_path, speechlike):
    soundfile.write(tmp_path / "x.wav", speechlike, 16000)
    command = ["enhance", str(tmp_path / "x.wav"), "--model", str(checkpoint_path)]
    assert _run([*command, "--plot", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    again = [*command, "--overwrite", "--plot"]
    assert _run([*again, str(tmp_path / "new/deep/x.png")]) == 0
    assert (tmp_path / "new/deep/x.png").exists()
    assert _run([*again, str(tmp_path / "bare")]) == 0
    assert (tmp_path / "bare").read_bytes()[:4] == b"\x89PNG"
    assert _run([*command, "-o", str(tmp_path / "y.wav"), "--plot", str(tmp_path / "bare")]) == 2
    assert _run([*command, "-o", str(tmp_path / "y.wav"), "--plot", str(tmp_path / "x.xyz")]) == 2
    for do in (["-o", str(tmp_path / "y.wav")], ["-o", str(tmp_path / "y.wav"), "--overwrite"]):
        assert _run([*command, *do, "--plot", str(tmp_path / "x.wav/x.png")]) == 2
    assert not (tmp_path / "y.wav").exists()
