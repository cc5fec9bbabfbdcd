import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from dynse.probes import fitting
from dynse.probes.data import LabelledStream
from dynse.probes.features import Features, collect, informative
from dynse.probes.fitting import Task, fit_task, predict, score, select
from dynse.probes.probe_file import around


@pytest.fixture
def problem():
    """Bits that carry a value, a flag and three classes exactly."""
    rng = np.random.default_rng(0)
    n = 3000
    bits = (rng.uniform(size=(n, 40)) < 0.4).astype(np.uint8)
    bits[:, 30] = bits[:, 3]  # the same column twice
    bits[:, 31] = 1
    value = 3 + bits[:, :4] @ np.array([2.0, -1.0, 4.0, 1.5])
    label = (bits[:, 5] + bits[:, 6]).astype(np.int32)
    vad = bits[:, 7] > 0
    stream = LabelledStream(
        None, np.zeros(0, np.int16), np.zeros(0, np.int16),
        {"category": np.where(rng.uniform(size=n) < 0.1, -1, label).astype(np.int32)},
        {"category": ["a", "b", "c"]}, [],
        {"vad": vad, "snr_input_db": np.where(vad, value, -1000).astype(np.float32)},
    )  # fmt: skip
    return stream, Features.of(bits), bits


VALUE = Task("snr_input_db", "value", "speech")
FLAG, CLASS = Task("vad", "flag"), Task("category", "class")


def test_what_is_fitted_by_the_absolute_error_is_chosen_by_it(problem):
    stream, features, _ = problem
    robust = Task("snr_input_db", "value", "speech", robust=True)
    grid, columns = (1e-2, 1e3, 1e5), np.arange(4)
    for task, by in ((robust, lambda found: -found["mae"]), (VALUE, lambda found: found["r2"])):
        each = [fit_task(stream, features, task, columns, l2) for l2 in grid]
        found = [score(stream, features, model) for model in each]
        assert [one["deciding"] for one in found] == [by(one) for one in found]
        chosen = fit_task(stream, features, task, columns, grid, (stream, features))
        assert chosen.l2 == each[int(np.argmax([by(one) for one in found]))].l2
        np.testing.assert_array_equal(chosen.weights, each[grid.index(chosen.l2)].weights)


def test_frames_without_noise_may_weigh_more_in_a_robust_fit(problem):
    stream, features, _ = problem
    # Half as many frames without noise say 3 more for the same features.
    quiet = np.arange(len(features)) % 3 == 0
    stream.labels["noisy"] = np.where(quiet, 0, 1)
    stream.targets["snr_input_db"] = stream.targets["snr_input_db"] + np.float32(3) * quiet

    def errors(weight):
        task = Task("snr_input_db", "value", "speech", robust=True, without_noise=weight)
        model = fit_task(stream, features, task, np.arange(4))
        error = np.abs(predict(features, model)[:, 0] - stream.targets["snr_input_db"])
        speech = stream.targets["vad"]
        return error[quiet & speech].mean(), error[~quiet & speech].mean()

    assert errors(1.0) == pytest.approx((3, 0), abs=0.3)
    assert errors(6.0) == pytest.approx((0, 3), abs=0.3)


def test_ridge_finds_the_generating_weights(problem):
    stream, features, _ = problem
    model = fit_task(stream, features, VALUE, np.arange(30), 0.01)
    expected = np.zeros(30)
    expected[:4] = 2.0, -1.0, 4.0, 1.5
    np.testing.assert_allclose(model.weights[:, 0], expected, atol=1e-3)
    assert model.bias[0] == pytest.approx(3, abs=1e-3)
    found = score(stream, features, model, 0.0)
    assert found["r2"] > 0.9999
    assert found["mae"] < 0.01 < found["baseline_mae"]
    assert found["frames"] == int(stream.targets["vad"].sum())


def test_ridge_in_blocks_is_that_of_scikit_learn(problem):
    stream, features, bits = problem
    rows, y = fitting.truth(stream, VALUE)
    x = bits[rows][:, 8:30].astype(float)
    z = (x - x.mean(0)) / x.std(0)
    reference = Ridge(alpha=100.0).fit(z, y[rows])
    model = fit_task(stream, features, VALUE, np.arange(8, 30), 100.0)
    np.testing.assert_allclose(model.weights[:, 0], reference.coef_ / x.std(0), rtol=1e-4)


def test_logistic_is_that_of_scikit_learn(problem):
    stream, features, bits = problem
    for task in (FLAG, CLASS):
        rows, y = fitting.truth(stream, task)
        x = bits[rows][:, 1:30].astype(float)
        z = (x - x.mean(0)) / x.std(0)
        reference = LogisticRegression(C=0.01, max_iter=1000, tol=1e-8).fit(z, y[rows])
        model = fit_task(stream, features, task, np.arange(1, 30), 100.0)
        logs = fitting.log_probabilities(predict(features, model)[rows])
        np.testing.assert_allclose(np.exp(logs), reference.predict_proba(z), atol=2e-3)
        found = score(stream, features, model, 0.0)
        assert found["accuracy"] > 0.97
        assert found["roc_auc"] > 0.97
        assert found["baseline_accuracy"] < 0.7


def test_constant_and_duplicate_columns_do_no_harm(problem):
    stream, features, _ = problem
    for task in (VALUE, FLAG, CLASS):
        model = fit_task(stream, features, task)
        assert np.isfinite(model.weights).all()
        assert score(stream, features, model)["deciding"] > -0.2


def test_selection_takes_what_tells_and_nothing_twice(problem):
    stream, features, _ = problem
    kept = informative(features)
    assert 31 not in kept
    chosen = select(stream, features, kept, (VALUE, FLAG, CLASS), 7).tolist()
    assert len(set(chosen)) == 7
    assert {2, 5, 6, 7} <= set(chosen)
    assert not {3, 30} <= set(chosen)


def test_penalty_is_chosen_on_the_validation_stream(problem):
    stream, features, _ = problem
    model = fit_task(stream, features, VALUE, None, (1e6, 0.01), (stream, features))
    assert model.l2 == 0.01
    assert fit_task(stream, features, VALUE, None, (1e6, 0.01)).l2 == 1e6


def test_window_averages_features_and_so_outputs(problem):
    stream, features, bits = problem
    x = features.block(100, 110, [0, 2], around(5))
    expected = [bits[i - 2 : i + 3, [0, 2]].mean(axis=0) for i in range(100, 110)]
    np.testing.assert_allclose(x, expected, atol=1e-6)
    np.testing.assert_allclose(
        features.block(0, 1, None, around(5))[0], bits[:3].mean(axis=0), atol=1e-6
    )
    model = fit_task(stream, features, Task("vad", "flag", spans=around(5)), np.arange(20), 10.0)
    framewise = bits[:, :20] @ model.weights + model.bias
    averaged = np.convolve(framewise[:, 0], np.ones(5) / 5, "valid")
    np.testing.assert_allclose(predict(features, model)[2:-2, 0], averaged, atol=1e-4)


def test_one_class_only_is_an_error(problem):
    stream, features, _ = problem
    stream.targets["vad"][:] = True
    with pytest.raises(ValueError, match="only one class"):
        fit_task(stream, features, FLAG)


def test_the_baseline_is_the_most_frequent_class(problem):
    stream, _, _ = problem
    assert fitting.majority_or_mean(stream, CLASS) == 1  # of two bits one is set, most often
    assert fitting.majority_or_mean(stream, CLASS, ("b",)) == 0
    assert fitting.majority_or_mean(stream, CLASS, ("a", "b")) == 2


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_class_that_is_not_there_to_be_learnt_is_never_found(problem, missing):
    stream, features, _ = problem
    everything = stream.labels["category"].copy()
    stream.labels["category"] = np.where(everything == missing, -1, everything)
    model = fit_task(stream, features, CLASS, np.arange(30), 0.01)
    guess = fitting.log_probabilities(predict(features, model)).argmax(axis=1)
    known = stream.labels["category"] >= 0
    assert (guess == everything)[known].mean() > 0.99
    assert missing not in guess
    stream.labels["category"] = everything  # as in other data, which has it
    assert 0.3 < score(stream, features, model)["accuracy"] < 0.9


@pytest.mark.parametrize("size", [100_000, 4096, 1000])
def test_features_do_not_depend_on_blocks(engine, speechlike, size):
    sources = ("masks", "scores", "spectrum", "suppression")
    blocks = [speechlike[i : i + size] for i in range(0, len(speechlike), size)]
    found = collect(engine, blocks, sources)
    whole = collect(engine, [speechlike], sources)
    for source in sources:
        assert len(found[source]) == 189
        assert np.array_equal(found[source].block(0, 189), whole[source].block(0, 189))
    gates, scores = found["masks"].block(0, 189), found["scores"].block(0, 189)
    sure = np.abs(scores) > 0.01
    assert np.array_equal(gates[sure] > 0, scores[sure] > 0)
