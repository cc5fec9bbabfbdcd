import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dynse.audio.io import quantise
from dynse.audio.residual import on_grid, residual_subtype, split_exactly

float32 = st.floats(-4, 4, width=32)


@settings(deadline=None)
@given(
    arrays(np.int32, 50, elements=st.integers(-(2**23), 2**23 - 1)),
    arrays(np.float32, 50, elements=st.floats(-1.75, 1.75, width=32)),
)
def test_24_bit_input_is_the_float32_sum_to_the_last_bit(codes, y):
    x = (codes / 2.0**23).astype(np.float32)
    output, residual = split_exactly(x, y, "FLOAT", gridded=True)
    assert output.dtype == residual.dtype == np.float32
    np.testing.assert_array_equal(output + residual, x)
    np.testing.assert_array_equal(output.astype(float) + residual, x)
    np.testing.assert_allclose(output, y, atol=2**-22, rtol=0)


@settings(deadline=None)
@example(np.float32([1, 1]), np.float32([2.0**-54 * 1.5, 2.0**-53 * 1.25]))
@given(arrays(np.float32, 50, elements=float32), arrays(np.float32, 50, elements=float32))
def test_float_input_is_the_float64_sum(x, y):
    output, residual = split_exactly(x, y, "FLOAT", gridded=False)
    np.testing.assert_array_equal(output, y)
    assert residual.dtype == np.float64
    larger, smaller = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    close = (smaller == 0) | (smaller >= larger * 2.0**-28)
    total = output + residual
    np.testing.assert_array_equal(total[close], x[close])
    assert (np.abs(total - x) <= larger * 2.0**-53).all()


@settings(deadline=None)
@given(
    arrays(np.float32, 50, elements=float32),
    st.sampled_from(["PCM_U8", "PCM_16", "PCM_24", "PCM_32"]),
    st.integers(0, 2**31),
)
def test_integer_output_counts_as_the_file_holds_it(y, output, seed):
    x = quantise(np.random.default_rng(seed).uniform(-1, 1, 50), "PCM_16").astype(np.float32)
    handed, residual = split_exactly(x, y, output, gridded=True)
    np.testing.assert_array_equal(handed, y)
    np.testing.assert_array_equal(quantise(y, output) + residual, x)
    wide = residual_subtype("PCM_16", output, gridded=True)
    fits = np.abs(residual) < 1
    np.testing.assert_array_equal(quantise(residual, wide)[fits], residual[fits])


@pytest.mark.parametrize(
    ("source", "output", "expected"),
    [
        ("PCM_16", "PCM_16", "PCM_16"),
        ("PCM_24", "PCM_16", "PCM_24"),
        ("PCM_16", "FLOAT", "FLOAT"),
        ("ULAW", "PCM_16", "FLOAT"),
        ("FLOAT", "FLOAT", "DOUBLE"),
        ("FLOAT", "PCM_16", "DOUBLE"),
        ("PCM_32", "PCM_32", "PCM_32"),
        ("PCM_32", "FLOAT", "DOUBLE"),
        ("DOUBLE", "DOUBLE", "DOUBLE"),
        ("PCM_16", "VORBIS", "FLOAT"),
    ],
)
def test_the_residual_has_room(source, output, expected):
    assert residual_subtype(source, output, on_grid(source)) == expected
