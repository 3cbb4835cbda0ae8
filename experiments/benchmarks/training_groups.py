"""Training steps, ours and the same by peers."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.benchmarks.group import Group, installed

if TYPE_CHECKING:
    import numpy as np


class Step(NamedTuple):
    """What a training step is made of. width: by how much the channels of a table of layers are multiplied, but those of the last."""

    network: str
    image_shape: tuple[int, int, int]
    batch: int
    attack_steps: int
    eps: float
    step_size: float
    num_classes: int = 10
    width: int = 1

    def model(self) -> Any:
        """Its network, at this width."""
        from irob.models import MODELS
        from irob.models.cam_network import Conv

        network = MODELS[self.network](self.image_shape, self.num_classes)
        if self.width == 1:
            return network
        *layers, last = network.layers  # type: ignore[attr-defined]
        wide = [dataclasses.replace(each, channels=self.width * each.channels) if isinstance(each, Conv) else each for each in layers]
        return network.clone(layers=(*wide, last))  # type: ignore[attr-defined]


# The paper's schedules.
STEPS = {
    "mnist_small": Step("small", (28, 28, 1), 50, 40, 0.3, 0.01),
    "cifar_small": Step("small", (32, 32, 3), 128, 10, 8 / 255, 2 / 255),
    "cifar_wresnet": Step("wresnet", (32, 32, 3), 128, 10, 8 / 255, 2 / 255),
}

# Networks of the robustness literature, with the attack of CIFAR-10.
LARGE_STEPS = {name: STEPS["cifar_small"]._replace(network=name) for name in ("preact_resnet_18", "wide_resnet_28_10")}


def training_step_group(name: str, method: str, dtype: str = "float32") -> Group:
    """One dispatch of optimizer steps, data on the device. dtype: of the network while it is attacked."""
    from experiments.benchmarks import floors
    from experiments.configs import base
    from experiments.training.step import steps_at_once
    from irob.models import CAMNetwork

    of = (STEPS | LARGE_STEPS)[name]
    network, config = of.model(), step_config(of, method)
    at_once = steps_at_once(config, network, base.defense_of(config))
    steps = "training step" if at_once == 1 else f"{at_once} training steps"
    title = f"{steps}, {method}, {name.replace('_', ' ')}, batch {of.batch}" + (
        "" if method == "normal" else f", {of.attack_steps} attack steps"
    )
    title += "" if dtype == "float32" else f", attacked in {dtype}"
    cost = floors.training_step_cost(network, method, of.batch, of.attack_steps) if isinstance(network, CAMNetwork) else None
    arguments = (at_once, name, method, dtype, *batch_of(of))
    return Group(title, our_step(of, method, dtype), training_peers, arguments, cost and cost.times(at_once))


def batch_of(of: Step) -> "tuple[np.ndarray, np.ndarray]":
    """Noise for images, and labels."""
    import numpy as np

    random = np.random.default_rng(0)
    return random.integers(0, 256, (of.batch, *of.image_shape), np.uint8), random.integers(0, of.num_classes, of.batch).astype(np.int32)


def our_step(of: Step, method: str, dtype: str = "float32") -> Callable[[], Any]:
    """A dispatch of steps as `experiments.train` makes it, on one batch that lies on the devices."""
    import jax

    from experiments.configs import base
    from experiments.runtime import devices
    from experiments.runtime.plan import current_plan
    from experiments.training.step import initial_state, make_step, steps_at_once, zero_metrics

    network = of.model()
    config = step_config(of, method)
    config.attack.dtype = dtype
    images, labels = batch_of(of)
    plan = current_plan()
    defense = base.defense_of(config, chunk=plan.path_chunk)
    step, at_once = make_step(config, network, defense, plan), steps_at_once(config, network, defense)
    state, sums = devices.replicate(initial_state(config, network)), devices.replicate(zero_metrics())
    several = tuple(array[None].repeat(at_once, axis=0) for array in (images, labels))
    on_device = jax.block_until_ready(devices.pmap(lambda batch: batch)(devices.shard(several, axis=1)))
    held = [state, sums]

    def ours() -> Any:
        held[:] = step(*held, *on_device)
        return jax.block_until_ready(held[1].loss)

    return ours


def training_peers(
    at_once: int, name: str, method: str, dtype: str, images: "np.ndarray", labels: "np.ndarray"
) -> dict[str, Callable[[], Any]]:
    """As many steps by the peers that are installed."""
    steps = torch_steps(name, method, dtype, images, labels) | tensorflow_step(name, method, dtype, images, labels)
    return {peer: functools.partial(loss_after, step, at_once) for peer, step in steps.items()}


def loss_after(step: Callable[[], Any], times: int) -> float:
    """The loss of the last of so many steps; only then is it waited for, as in our call of several steps."""
    for _ in range(times - 1):
        step()
    return float(step())


def torch_steps(name: str, method: str, dtype: str, images: "np.ndarray", labels: "np.ndarray") -> dict[str, Callable[[], Any]]:
    """The step in PyTorch, with the network as it is and with its head folded where that can be done; on a GPU also compiled."""
    if not installed("torch"):
        return {}
    import numpy as np
    import torch

    from experiments.benchmarks import peers
    from irob.models import CAMNetwork

    of = (STEPS | LARGE_STEPS)[name]
    network = of.model()
    params = network.initial_params()
    x, t = peers.images(images / np.float32(255)), torch.tensor(labels.astype(np.int64)).to(peers.device())
    contenders: dict[str, Callable[[], Any]] = {}
    forms = {"PyTorch": (False, False), "PyTorch, head folded": (True, False)}
    if peers.device() == "cuda":
        forms |= {f"{name}, compiled": (folded, True) for name, (folded, _) in forms.items()}
    for label, (folded, compiled) in forms.items():
        if isinstance(network, CAMNetwork) and (not folded or network.fold_head(params)[0] is not network):
            model: Any = peers.TorchNetwork(network, params, folded)
        elif not isinstance(network, CAMNetwork) and not folded:
            model = peers.TorchResNet(network.module, params)
        else:
            continue
        model = model.to(peers.device())
        if compiled:
            peers.compile_maps(model)
        step = peers.make_step(
            model, method, eps=of.eps, step_size=of.step_size, steps=of.attack_steps, learning_rate=1e-4, half=dtype == "bfloat16"
        )
        contenders[label] = functools.partial(step, x, t)
    return contenders


def tensorflow_step(name: str, method: str, dtype: str, images: "np.ndarray", labels: "np.ndarray") -> dict[str, Callable[[], Any]]:
    """A step of `int` as a graph of TensorFlow."""
    if method != "int" or dtype != "float32" or name in LARGE_STEPS or not installed("tensorflow"):
        return {}
    import numpy as np

    from experiments.benchmarks import tensorflow_peers

    of = STEPS[name]
    network = of.model()
    step = tensorflow_peers.make_step(
        network, network.initial_params(), eps=of.eps, step_size=of.step_size, steps=of.attack_steps, learning_rate=1e-4
    )
    return {"TensorFlow graph": functools.partial(step, images / np.float32(255), labels)}


def step_config(of: Step, method: str) -> Any:
    """A config of such steps, at full eps from the first one."""
    from experiments.configs import mnist

    config = mnist.get_config(method)
    config.network, config.batch_size, config.eps, config.eps_ramp = of.network, of.batch, of.eps, (0, 0)
    config.attack.num_steps, config.attack.step_size = of.attack_steps, of.step_size
    return config
