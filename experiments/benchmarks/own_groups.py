"""The paper's networks as a user writes them in linen, attacked: beside our table form of the same weights, and beside flax as it stands."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import irob
from experiments.benchmarks.group import Group
from irob.models import Conv, from_linen
from irob.models.cam_network import Layer

SIZES = {"small": ((28, 28, 1), 50, 40), "wresnet": ((32, 32, 3), 16, 5)}  # images, how many, steps


class PlainNetwork(nn.Module):
    """A table of layers in flax's own operations, of a batch; `features` is sown, the head is a Dense."""

    layers: Sequence[Layer]
    num_classes: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Logits `[n, C]`."""
        outputs, count = [x], 0
        for layer in self.layers:
            h = outputs[-1]
            if not isinstance(layer, Conv):
                outputs.append(nn.max_pool(h, (layer.width, layer.width), (layer.width, layer.width)))
                continue
            h = h if len(outputs) == 1 else nn.relu(h)
            out = nn.Conv(layer.channels, (layer.width, layer.width), layer.stride, name=f"conv_{count}")(h)
            count += 1
            if layer.shortcut:
                back = outputs[-2]
                width, missing = back.shape[-3] // out.shape[-3], out.shape[-1] - back.shape[-1]
                back = nn.avg_pool(back, (width, width), (width, width))
                out += jnp.pad(back, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
            outputs.append(out)
        self.sow("intermediates", "features", outputs[-1])
        return nn.Dense(self.num_classes, use_bias=False, name="head")(outputs[-1].mean(axis=(-3, -2)))


def as_users_write_it(name: str) -> tuple[Any, Any, Any]:
    """Our table form of a network, the same as a linen module, and parameters of both."""
    shape, _, _ = SIZES[name]
    network = irob.create(name, shape, 10)
    return network, from_linen(PlainNetwork(network.layers, 10), shape, 10), network.initial_params()


def ascent_of(explain_of: Callable[[Any], Callable[[Any], Any]], params: Any, x: Any, labels: Any, steps: int) -> Callable[[], Any]:
    """PGD on the cross-entropy of a batch, compiled, as a function without arguments; it returns the logits of what it reached."""

    @jax.jit
    def run(params: Any, x: Any, labels: Any) -> Any:
        logits, sizes = explain_of(params), irob.constant_steps(0.01, steps)

        def one(x: Any, t: Any) -> Any:
            return logits(irob.pgd(lambda z: irob.cross_entropy(logits(z), t), irob.LInf(0.1), x, step_sizes=sizes))

        return jax.vmap(one)(x, labels)

    return lambda: np.asarray(run(params, x, labels))


def own_network(name: str) -> Group:
    """A user's linen network, prepared; its peers are our table form and flax as it stands."""
    shape, n, steps = SIZES[name]
    _, own, params = as_users_write_it(name)
    random = np.random.default_rng(0)
    x, labels = random.uniform(size=(n, *shape)).astype(np.float32), random.integers(0, 10, n)

    def prepared(params: Any) -> Any:
        explain = own.frozen({"params": params})
        return lambda z: explain(z).logits

    title = f"{name} in plain linen: PGD, {steps} steps, {n} images"
    return Group(title, ascent_of(prepared, params, x, labels, steps), own_peers, (name, params, x, labels, steps), check=equal_logits)


def own_peers(name: str, params: Any, x: Any, labels: Any, steps: int) -> dict[str, Callable[[], Any]]:
    """The same attack on our table form, and on the module applied as flax applies it."""
    table, own, _ = as_users_write_it(name)

    def of_table(params: Any) -> Any:
        explain = table.frozen(params)
        return lambda z: explain(z).logits

    as_it_stands = lambda params: lambda z: own.module.apply({"params": params}, z[None])[0]  # noqa: E731
    return {"table form": ascent_of(of_table, params, x, labels, steps), "flax": ascent_of(as_it_stands, params, x, labels, steps)}


def equal_logits(found: dict[str, np.ndarray]) -> str:
    """Raises unless the logits that all reach are equal up to what signs of tiny gradients change; else says how far they are apart."""
    first = next(iter(found.values()))
    apart = max(float(np.median(np.abs(other - first))) for other in found.values()) / float(np.abs(first).max())
    if apart > 1e-3:
        raise RuntimeError(f"the attacks do not do the same: their logits differ by {apart:.1e} of the largest")
    return f"logits reached agree to {apart:.0e} of the largest (median)"
