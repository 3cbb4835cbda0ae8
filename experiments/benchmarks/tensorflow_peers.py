"""The same training step as one TensorFlow graph, in the manner of the paper's authors: features, then maps by the head, gradients by the graph.

Needs the extra `tensorflow`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from irob.models.cam_network import CAMNetwork, MaxPool
from irob.types import Params

Maps = Callable[[Any], Any]


def maps_of(network: CAMNetwork, variables: dict[str, dict[str, Any]]) -> Maps:
    """Class activation maps `[n, h, w, C]` of images `[n, H, W, c]`."""

    def maps(x: Any) -> Any:
        outputs, convs = [x], iter(range(len(variables) - 1))
        for layer in network.layers:
            h = outputs[-1]
            if isinstance(layer, MaxPool):
                outputs.append(tf.nn.max_pool2d(h, layer.width, layer.width, "VALID"))
                continue
            conv = variables[f"conv_{next(convs)}"]
            h = h if len(outputs) == 1 else tf.nn.relu(h)
            out = tf.nn.conv2d(h, conv["kernel"], layer.stride, "SAME") + conv["bias"]
            outputs.append(out + fit(outputs[-2], out.shape) if layer.shortcut else out)
        return outputs[-1] @ variables["head"]["kernel"]

    return maps


def fit(h: Any, shape: Any) -> Any:
    """The shortcut of a residual layer, at another shape."""
    if h.shape[1] != shape[1]:
        h = tf.nn.avg_pool2d(h, h.shape[1] // shape[1], h.shape[1] // shape[1], "VALID")
    missing = shape[3] - h.shape[3]
    return tf.pad(h, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


def interpretation_change(clean: Any, attacked: Any, labels: Any) -> Any:
    """The mean over images of R (see `irob.defenses`)."""
    change = tf.reduce_sum(tf.abs(attacked - clean), axis=(1, 2))
    true = tf.one_hot(labels, change.shape[1])
    weights = tf.nn.softmax(tf.reduce_mean(attacked, axis=(1, 2)) - 1e9 * true)
    return tf.reduce_mean(tf.reduce_sum((true + weights) * change, axis=1))


def cross_entropy(maps: Any, labels: Any) -> Any:
    """The mean cross-entropy over images."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.reduce_mean(maps, axis=(1, 2))))


def make_step(
    network: CAMNetwork, params: Params, *, eps: float, step_size: float, steps: int, learning_rate: float, weight: float = 0.01
) -> Callable[[np.ndarray, np.ndarray], Any]:
    """A training step of `int`, as `experiments.train` has it: `(x [n, H, W, c], labels [n]) -> loss`."""
    variables = {layer: {part: tf.Variable(value) for part, value in parts.items()} for layer, parts in params.items()}
    trained = tf.nest.flatten(variables)
    first, second = ([tf.Variable(tf.zeros_like(v)) for v in trained] for _ in range(2))  # Adam's moments
    count, maps = tf.Variable(0.0), maps_of(network, variables)

    @tf.function
    def step(x: Any, labels: Any) -> Any:
        clean = maps(x)

        def ascend(z: Any) -> Any:
            (gradient,) = tf.gradients(interpretation_change(clean, maps(z), labels), z)
            moved = tf.clip_by_value(z + step_size * tf.sign(gradient), x - eps, x + eps)
            return (tf.clip_by_value(moved, 0.0, 1.0),)

        start = tf.clip_by_value(x + tf.random.uniform(tf.shape(x), -eps, eps), 0.0, 1.0)
        (x_adv,) = tf.while_loop(lambda z: True, ascend, (start,), maximum_iterations=steps)
        x_adv = tf.stop_gradient(x_adv)
        loss = cross_entropy(clean, labels) + weight * interpretation_change(clean, maps(x_adv), labels)
        count.assign_add(1.0)
        rate = learning_rate * tf.sqrt(1.0 - 0.999**count) / (1.0 - 0.9**count)
        for v, m, s, gradient in zip(trained, first, second, tf.gradients(loss, trained), strict=True):
            m.assign(0.9 * m + 0.1 * gradient)
            s.assign(0.999 * s + 0.001 * gradient**2)
            v.assign_sub(rate * m / (tf.sqrt(s) + 1e-8))
        return loss

    return lambda x, labels: step(tf.constant(x), tf.constant(labels))
