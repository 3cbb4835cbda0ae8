"""Whether a map depends on what the network learned: it must not survive when the parameters are drawn anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from irob.metrics.explanations.complexity import histogram_entropy
from irob.metrics.explanations.sensitivity import Attribute
from irob.similarities import spearman
from irob.types import Array, Image, Label, Params, PRNGKey, Scalar


def layer_names(params: Params) -> list[str]:
    """The groups of a tree of parameters from input to output: its keys in natural order, conv_2 before conv_10, those named head or Dense last.

    Of the trees of linen, `{"params": {...}, ...}`, those inside of "params". A guess by name, wrong where kinds of layers alternate (BatchNorm_1
    comes before Conv_0): where the order matters, give your own.

    Raises:
      ValueError: if they are no dictionary of layers.

    >>> layer_names({"head": 0, "conv_10": 0, "conv_2": 0})
    ['conv_2', 'conv_10', 'head']
    """
    natural = lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]  # noqa: E731
    is_head = re.compile(r"(?i)(head|dense|linear|fc|logits|classifier|out)(_?\d+)?$")
    return sorted(_groups(params), key=lambda name: (bool(is_head.match(str(name))), natural(str(name))))


def mprt_curve(
    attribute_of: Callable[[Params], Array], params: Params, fresh: Params, layers: Sequence[str]
) -> Float[Array, " layers_and_1"]:
    """The model parameter randomization test, cascading: Spearman's correlation of |map| with that of the original network, after each layer, from
    the output down, has taken its parameters from another draw.

    Args:
      attribute_of: params -> the map of one image.
      params: of the trained network.
      fresh: an initial draw of the same tree, such as `network.initial_params(seed)`, with another seed than that of the training.
      layers: from input to output, such as `layer_names(params)`; other parameters, such as statistics of BatchNorm, stay.

    Returns:
      `[L + 1]`; 1 first, NaN for a constant map. It must fall; lower is better. (The means of Quantus take in the first entry, too; leave it out.)

    Raises:
      ValueError: for a layer that is none.

    References:
      Adebayo et al. 2018, https://arxiv.org/abs/1810.03292, sec. 3.
    """
    names = _groups(params)
    missing = [name for name in layers if name not in names]
    if missing:
        raise ValueError(f"there is no layer {missing[0]!r}: choose of {', '.join(names)}")
    original = jnp.abs(attribute_of(params))

    def after(count: Array) -> Scalar:
        def part(name: str) -> Params:
            drawn = name in layers and list(layers).index(name) >= len(layers) - count
            return jax.tree.map(lambda new, old: jnp.where(drawn, new, old), _groups(fresh)[name], names[name])

        mixed = {name: part(name) for name in names}
        return spearman(original, jnp.abs(attribute_of(_with_groups(params, mixed))))

    return jax.lax.map(after, jnp.arange(len(layers) + 1))


def _groups(params: Params) -> Mapping[str, Params]:
    groups = params["params"] if isinstance(params, Mapping) and isinstance(params.get("params"), Mapping) else params
    if not isinstance(groups, Mapping):
        raise ValueError("the parameters are not a dictionary of layers: there is no order of them")
    return groups


def _with_groups(params: Params, groups: Mapping[str, Params]) -> Params:
    return {**params, "params": groups} if _groups(params) is not params else groups


def averaged(attribute: Attribute, key: PRNGKey, *, sigma: Scalar = 0.1, draws: int = 50) -> Attribute:
    """The mean of a map over noisy images, `E Phi(x + sigma N(0, 1))`, the same noise for every image: of it `mprt_curve` is sMPRT.

    Args:
      attribute: Phi.
      key: of the noise.
      sigma: its standard deviation, on pixels in [0, 1].
      draws: how many.

    References:
      Hedström et al. 2023, https://arxiv.org/abs/2401.06465.
    """

    def mean(x: Image) -> Array:
        keys = jax.random.split(key, draws)
        return jnp.mean(jax.lax.map(lambda k: attribute(x + sigma * jax.random.normal(k, x.shape, x.dtype)), keys), axis=0)

    return mean


def entropy_rise(original: Array, randomized: Array) -> Scalar:
    """The relative rise of a map's complexity when all parameters are drawn anew (eMPRT):

        (H(randomized) - H(original)) / H(original),    H = `histogram_entropy`

    Returns:
      A scalar; higher is better. NaN where the original map is constant.

    References:
      Hedström et al. 2023, https://arxiv.org/abs/2401.06465.
    """
    before, after = histogram_entropy(original), histogram_entropy(randomized)
    return (after - before) / jnp.where(before > 0.0, before, jnp.nan)


def random_logit(attribute_of: Callable[[Any], Array], label: Label, num_classes: int, key: PRNGKey) -> Scalar:
    """Spearman's correlation of the map of a class with that of another class, drawn at random; lower is better.

    Args:
      attribute_of: class -> the map of one image.
      label: the class.
      num_classes: C.
      key: of the draw.

    Raises:
      ValueError: for fewer than two classes.

    References:
      Sixt et al. 2020, https://arxiv.org/abs/1912.09818.
    """
    if num_classes < 2:
        raise ValueError(f"there is no other class among {num_classes}")
    other = (label + jax.random.randint(key, (), 1, num_classes)) % num_classes
    return spearman(attribute_of(label), attribute_of(other))
