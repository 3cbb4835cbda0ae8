import jax.numpy as jnp
import numpy as np

from experiments import parallel
from experiments.evaluator import Evaluator, exact, prediction
from experiments.kept import Kept


def test_map_gives_each_image_its_own_result_and_measures_it_once(trained, digits):
    calls = []

    def check(shared, images, labels, indices, more):
        _, scale = shared
        return {"sum": jnp.sum(images.astype(jnp.float32), axis=(1, 2, 3)) * scale + more, "index": indices}

    counted = exact(check)

    def counting(*arguments):
        calls.append(1)
        return counted(*arguments)

    evaluator = Evaluator(*trained, digits, 2, seed=0, kept=Kept())
    indices, more = np.array([20, 3, 7, 11, 0]), np.array([0.5, 1.5, 2.5, 3.5, 4.5], np.float32)
    found = evaluator.map("sums", counting, (np.float32(2.0),), indices, more)
    np.testing.assert_allclose(found["sum"], 2 * digits.images[indices].sum(axis=(1, 2, 3), dtype=float) + more)
    np.testing.assert_array_equal(found["index"], indices)
    before = len(calls)
    again = evaluator.map("sums", counting, (np.float32(2.0),), indices[::-1], more[::-1])
    np.testing.assert_array_equal(again["sum"], found["sum"][::-1])
    assert len(calls) == before
    evaluator.map("sums", counting, (np.float32(2.0),), np.append(indices, 5), np.append(more, 0.0).astype(np.float32))
    assert len(calls) == before + 1
    assert parallel.num_devices() == 4


def test_logits_that_are_not_finite_predict_nothing():
    assert int(prediction(jnp.array([1.0, jnp.nan, 0.0]))) == -1
    assert int(prediction(jnp.array([1.0, 3.0, 0.0]))) == 1
