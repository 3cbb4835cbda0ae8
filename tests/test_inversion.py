import jax.numpy as jnp
import numpy as np
import pytest

import irob


def test_activation_is_the_mean_of_a_unit():
    features = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    assert float(irob.attacks.mean_activation(features, 1)) == 4.0


@pytest.mark.parametrize("ball", [irob.L2(10.0), irob.LInf(1.0)])
def test_a_linear_unit_drives_every_pixel_to_its_end(ball, random):
    weights = random.normal(size=(4, 4, 1)).astype(np.float32)
    seed = random.uniform(size=(4, 4, 1)).astype(np.float32)
    features = lambda x: jnp.stack([weights[..., 0] * x[..., 0], -x[..., 0]], axis=-1)
    found = irob.attacks.invert(features, 0, seed, ball, step_sizes=irob.constant_steps(0.5, 60))
    np.testing.assert_allclose(found, weights > 0, atol=1e-5)
    assert irob.attacks.mean_activation(features(found), 0) > irob.attacks.mean_activation(features(seed), 0)
