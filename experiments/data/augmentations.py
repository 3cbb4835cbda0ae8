"""Augmentations of training images: functions of a random key and one image `[H, W, c]`, by name.

    flip           left and right are exchanged, with probability 1/2
    padded_crop    the image is shifted by up to `pad` pixels in each direction, over zeros
    cutout         a square of `size` pixels with a random center is set to 0 (DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552)

and of an image with another one; they return the image and the weight of its own label, the rest being that of the other's label:

    mixup          w x + (1 - w) other,  w ~ Beta(alpha, alpha) (Zhang et al. 2018, https://arxiv.org/abs/1710.09412)
    cutmix         a rectangle of 1 - w of the area, w ~ Beta(alpha, alpha), is the other's (Yun et al. 2019, https://arxiv.org/abs/1905.04899);
                   the weight is the area that is left
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from irob.types import Array, Image, PRNGKey, Scalar

Augmentation = Callable[..., Image]


def flip(key: PRNGKey, x: Image) -> Image:
    """The image, or its mirror image with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), x[:, ::-1], x)


def padded_crop(key: PRNGKey, x: Image, pad: int = 4) -> Image:
    """A crop of the size of x at a uniformly random place of x with `pad` zeros on each side."""
    if pad < 0:
        raise ValueError(f"pad must not be negative, got {pad}")
    row, column = jax.random.randint(key, (2,), 0, 2 * pad + 1)
    padded = jnp.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    return jax.lax.dynamic_slice(padded, (row, column, 0), x.shape)


def cutout(key: PRNGKey, x: Image, size: int = 8) -> Image:
    """The image with a square of zeros around a uniformly random pixel; what is outside of the image is cut off."""
    height, width, _ = x.shape
    row, column = (jax.random.randint(k, (), 0, n) for k, n in zip(jax.random.split(key), (height, width), strict=True))
    return jnp.where(rectangle(x, row - size // 2, column - size // 2, size, size), 0.0, x)


def rectangle(x: Image, top: Array | int, left: Array | int, height: Array | int, width: Array | int) -> Array:
    """`[H, W, 1]`: which pixels are inside."""
    rows, columns = jnp.arange(x.shape[0]), jnp.arange(x.shape[1])
    inside = ((rows >= top) & (rows < top + height))[:, None] & ((columns >= left) & (columns < left + width))[None]
    return inside[..., None]


def mixup(key: PRNGKey, x: Image, other: Image, alpha: float = 1.0) -> tuple[Image, Scalar]:
    """`w x + (1 - w) other`, and w."""
    weight = beta(key, alpha, x)
    return weight * x + (1.0 - weight) * other, weight


def cutmix(key: PRNGKey, x: Image, other: Image, alpha: float = 1.0) -> tuple[Image, Scalar]:
    """The image with a rectangle of the other, and the part of the area that is its own."""
    of_weight, of_place = jax.random.split(key)
    sides = jnp.sqrt(1.0 - beta(of_weight, alpha, x))
    height, width, _ = x.shape
    row, column = jax.random.uniform(of_place, (2,)) * jnp.array([height, width], x.dtype)
    tall, wide = sides * height, sides * width
    inside = rectangle(x, jnp.round(row - tall / 2), jnp.round(column - wide / 2), jnp.round(tall), jnp.round(wide))
    return jnp.where(inside, other, x), 1.0 - jnp.mean(inside, dtype=x.dtype)


def beta(key: PRNGKey, alpha: float, x: Image) -> Array:
    """A weight of Beta(alpha, alpha), in the type of the image."""
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}: mix=none mixes nothing")
    return jax.random.beta(key, alpha, alpha, dtype=x.dtype)


def unmixed(key: PRNGKey, x: Image, other: Image) -> tuple[Image, Scalar]:
    """The image itself, with all of the weight."""
    return x, 1.0


AUGMENTATIONS: dict[str, Augmentation] = {"flip": flip, "padded_crop": padded_crop, "cutout": cutout}
MIXTURES: dict[str, Callable[..., tuple[Image, Scalar]]] = {"none": unmixed, "mixup": mixup, "cutmix": cutmix}
