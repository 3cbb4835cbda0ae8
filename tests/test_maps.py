import numpy as np

import irob


def test_cam_is_the_weighted_sum_of_features(random):
    features, head = random.normal(size=(3, 2, 4)).astype(np.float32), random.normal(size=(4, 5)).astype(np.float32)
    expected = np.zeros((3, 2, 5))
    for c in range(5):
        for k in range(4):
            expected[:, :, c] += head[k, c] * features[:, :, k]
    np.testing.assert_allclose(irob.cam(features, head), expected, rtol=1e-5, atol=1e-6)


def test_complete_maps_sum_to_the_logits(small, random):
    network, params = small
    maps, logits = network.explain(params, random.random((28, 28, 1)).astype(np.float32))
    np.testing.assert_allclose(np.sum(irob.complete(maps), axis=(0, 1)), logits, rtol=1e-4, atol=1e-5)
