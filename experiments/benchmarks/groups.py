"""What is timed side by side: training steps, attacks and maps, ours and the same by peers."""

import functools
import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.benchmarks.timing import OURS

if TYPE_CHECKING:
    import numpy as np

    from experiments.benchmarks.floors import Cost
    from irob.arrays import Params
    from irob.networks import CAMNetwork


class Group(NamedTuple):
    """title. ours: to be timed. peers: `peers(*arguments)` makes name -> something to time, in its process. cost: the least that ours must do.

    check: raises unless all did the same, by what each returned; else says what they did.
    """

    title: str
    ours: Callable[[], Any]
    peers: Callable[..., dict[str, Callable[[], Any]]]
    arguments: tuple[Any, ...]
    cost: "Cost | None" = None
    check: Callable[[dict[str, Any]], str] | None = None


def installed(*packages: str) -> bool:
    """Whether peers are there; says so on stderr if not."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        extra = "tensorflow" if "tensorflow" in missing else "benchmark"
        print(f"left out: {', '.join(missing)} not installed (pip install '.[{extra}]')", file=sys.stderr)
    return not missing


class Step(NamedTuple):
    """What a training step is made of."""

    network: str
    image_shape: tuple[int, int, int]
    batch: int
    attack_steps: int
    eps: float
    step_size: float


# The paper's schedules.
STEPS = {
    "mnist_small": Step("small", (28, 28, 1), 50, 40, 0.3, 0.01),
    "cifar_small": Step("small", (32, 32, 3), 128, 10, 8 / 255, 2 / 255),
    "cifar_wresnet": Step("wresnet", (32, 32, 3), 128, 10, 8 / 255, 2 / 255),
}


def training_step(name: str, method: str, dtype: str = "float32") -> Group:
    """One optimiser step, data on the device. dtype: of our attack."""
    import irob
    from experiments.benchmarks import floors

    of = STEPS[name]
    title = f"training step, {method}, {name.replace('_', ' ')}, batch {of.batch}, {of.attack_steps} attack steps"
    title += "" if dtype == "float32" else f", attacked in {dtype}"
    cost = floors.training_step(irob.create(of.network, of.image_shape, 10), method, of.batch, of.attack_steps)
    return Group(title, our_step(of, method, dtype), training_peers, (name, method, *batch_of(of)), cost)


def batch_of(of: Step) -> "tuple[np.ndarray, np.ndarray]":
    """Noise for images, and labels."""
    import numpy as np

    random = np.random.default_rng(0)
    return random.integers(0, 256, (of.batch, *of.image_shape), np.uint8), random.integers(0, 10, of.batch).astype(np.int32)


def our_step(of: Step, method: str, dtype: str = "float32") -> Callable[[], Any]:
    """The step that `experiments.train` runs, on one batch that lies on the devices."""
    import jax

    import irob
    from experiments import parallel, training

    network = irob.create(of.network, of.image_shape, 10)
    config = step_config(of, method)
    config.attack.dtype = dtype
    images, labels = batch_of(of)
    step = training.make_step(config, network, irob.DEFENSES[method](**config.defense))
    state = parallel.replicate(training.initial_state(config, network))
    totals = parallel.replicate(training.no_totals())
    on_device = jax.block_until_ready(parallel.pmap(lambda batch: batch)(parallel.shard((images[None], labels[None]), axis=1)))
    held = [state, totals]

    def ours() -> Any:
        held[:] = step(*held, *on_device)
        return jax.block_until_ready(held[1].loss)

    return ours


def training_peers(name: str, method: str, images: "np.ndarray", labels: "np.ndarray") -> dict[str, Callable[[], Any]]:
    """The same step by whoever is installed."""
    return torch_steps(name, method, images, labels) | tensorflow_step(name, method, images, labels)


def torch_steps(name: str, method: str, images: "np.ndarray", labels: "np.ndarray") -> dict[str, Callable[[], Any]]:
    """The step in PyTorch, with the network as it is and with its head folded where that can be done; on a GPU also compiled."""
    if not installed("torch"):
        return {}
    import numpy as np
    import torch

    import irob
    from experiments.benchmarks import peers

    of = STEPS[name]
    network = irob.create(of.network, of.image_shape, 10)
    params = network.initial_params()
    x, t = peers.images(images / np.float32(255)), torch.tensor(labels.astype(np.int64)).to(peers.device())
    contenders: dict[str, Callable[[], Any]] = {}
    forms = {"PyTorch": (False, False), "PyTorch, head folded": (True, False)}
    if peers.device() == "cuda":
        forms |= {f"{name}, compiled": (folded, True) for name, (folded, _) in forms.items()}
    for label, (folded, compiled) in forms.items():
        if not folded or network.fold_head(params)[0] is not network:
            model = peers.TorchNetwork(network, params, folded).to(peers.device())
            if compiled:
                model.compile_maps()
            step = peers.make_step(model, method, eps=of.eps, step_size=of.step_size, steps=of.attack_steps, learning_rate=1e-4)
            contenders[label] = functools.partial(loss_of, step, x, t)
    return contenders


def tensorflow_step(name: str, method: str, images: "np.ndarray", labels: "np.ndarray") -> dict[str, Callable[[], Any]]:
    """A step of `int` as a graph of TensorFlow."""
    if method != "int" or not installed("tensorflow"):
        return {}
    import numpy as np

    import irob
    from experiments.benchmarks import tensorflow_peers

    of = STEPS[name]
    network = irob.create(of.network, of.image_shape, 10)
    step = tensorflow_peers.make_step(
        network, network.initial_params(), eps=of.eps, step_size=of.step_size, steps=of.attack_steps, learning_rate=1e-4
    )
    return {"TensorFlow graph": functools.partial(loss_of, step, images / np.float32(255), labels)}


def loss_of(step: Callable[..., Any], *arguments: Any) -> float:
    """The loss of a peer's step, as a number."""
    return float(step(*arguments))


def step_config(of: Step, method: str) -> Any:
    """A config of such steps, at full eps from the first one."""
    from experiments.configs import mnist

    config = mnist.get_config(method)
    config.network, config.batch_size, config.eps, config.eps_ramp = of.network, of.batch, of.eps, (0, 0)
    config.attack.num_steps, config.attack.step_size = of.attack_steps, of.step_size
    return config


def trained_on_digits() -> "tuple[CAMNetwork, Params, np.ndarray, np.ndarray]":
    """The small network after a minute part of training on the bundled digits, and 200 test images with labels."""
    import jax
    import numpy as np
    import optax

    import irob
    from experiments import data

    network = irob.create("small", (28, 28, 1), 10)
    train, test = data.load_digits("train", None), data.load_digits("test", None)
    x, labels = train.images[:500] / np.float32(255), train.labels[:500]
    adam = optax.adam(2e-3)

    def loss(params: Any) -> Any:
        return jax.numpy.mean(jax.vmap(lambda x, t: irob.cross_entropy(network.explain(params, x).logits, t))(x, labels))

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = adam.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    params = network.initial_params()
    state = adam.init(params)
    for _ in range(60):
        params, state = step(params, state)
    return network, jax.tree.map(np.asarray, params), test.images[:200] / np.float32(255), test.labels[:200]


PGD = {"eps": 0.1, "step_size": 0.01, "steps": 200}


def pgd_200() -> Group:
    """200 steps of PGD on 200 images, the same for all; ours on all devices, as in evaluation."""
    import jax
    import numpy as np

    import irob
    from experiments import parallel
    from experiments.benchmarks import floors

    network, params, x, labels = trained_on_digits()

    @parallel.pmap
    def attack(params: Any, x: Any, labels: Any) -> Any:
        explain = network.attack_form(params)
        sizes = irob.constant_steps(PGD["step_size"], int(PGD["steps"]))

        def one(x: Any, t: Any) -> Any:
            return irob.pgd(lambda z: irob.cross_entropy(explain(z).logits, t), irob.LInf(PGD["eps"]), x, step_sizes=sizes)

        x_adv = jax.lax.map(lambda pair: one(*pair), (x, labels), batch_size=50)
        return jax.vmap(lambda z, t: jax.numpy.argmax(network.explain(params, z).logits) == t)(x_adv, labels)

    def check(accuracies: dict[str, float]) -> str:
        if max(accuracies.values()) - min(accuracies.values()) > 0.011:
            raise RuntimeError(f"the attacks do not do the same: {accuracies}")
        return "accuracy under attack: " + ", ".join(f"{name} {value:.3f}" for name, value in accuracies.items())

    here = parallel.replicate(params), *parallel.shard((x, labels))
    cost = floors.attack_step(network, maps=False).times(200 * PGD["steps"])
    return Group(
        "PGD, 200 steps, 200 images, small network",
        lambda: float(np.mean(attack(*here))),
        pgd_peers,
        (params, x, labels),
        cost,
        check,
    )


def pgd_peers(params: "Params", x: "np.ndarray", labels: "np.ndarray") -> dict[str, Callable[[], Any]]:
    """The same attack in plain PyTorch and in the attack libraries that are installed."""
    if not installed("torch"):
        return {}
    import numpy as np
    import torch

    import irob
    from experiments.benchmarks import peers

    eps, step_size, steps = PGD["eps"], PGD["step_size"], int(PGD["steps"])
    model = peers.TorchNetwork(irob.create("small", (28, 28, 1), 10), params).requires_grad_(False).eval().to(peers.device())
    inputs, t = peers.images(x), torch.tensor(labels.astype(np.int64)).to(peers.device())

    def accuracy(x_adv: Any) -> float:
        with torch.no_grad():
            return float((model(x_adv.to(peers.device())).argmax(dim=1) == t).float().mean())

    contenders: dict[str, Callable[[], Any]] = {
        "PyTorch": lambda: accuracy(peers.pgd(model, inputs, t, eps=eps, step_size=step_size, steps=steps))
    }
    if installed("torchattacks"):
        import torchattacks

        theirs = torchattacks.PGD(model, eps=eps, alpha=step_size, steps=steps, random_start=False)
        contenders["torchattacks"] = lambda: accuracy(theirs(inputs, t))
    if installed("foolbox"):
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=peers.device())
        linf = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps, random_start=False)
        contenders["foolbox"] = lambda: accuracy(linf(wrapped, inputs, t, epsilons=eps)[1])
    if installed("art"):
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            model,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=(1, 28, 28),
            nb_classes=10,
            clip_values=(0.0, 1.0),
            device_type={"cpu": "cpu", "cuda": "gpu"}[peers.device()],
        )
        art = ProjectedGradientDescentPyTorch(classifier, eps=eps, eps_step=step_size, max_iter=steps, batch_size=200, verbose=False)
        chw = inputs.contiguous().cpu().numpy()
        contenders["ART"] = lambda: accuracy(torch.tensor(art.generate(chw, labels)))
    return contenders


IG_POINTS = 100


def explained(ours: str) -> Group:
    """Maps of the label for 64 images: integrated gradients with 100 right points, or Grad-CAM."""
    import jax
    import numpy as np

    import irob
    from irob.losses import pick

    network, params, x, labels = trained_on_digits()
    x, labels = x[:64], labels[:64]

    def integrated(explain: Any, x: Any, t: Any) -> Any:
        score = lambda z: pick(explain(z).logits, t)  # noqa: E731
        return irob.integrated_gradients(score, x, points=IG_POINTS, rule="right_riemann").attributions

    def grad_cam(explain: Any, x: Any, t: Any) -> Any:
        return pick(irob.complete(explain(x).maps), t)

    one = {"ig": integrated, "grad_cam": grad_cam}[ours]

    @jax.jit
    def run(params: Any, x: Any, labels: Any) -> Any:
        explain = network.attack_form(params)
        return jax.vmap(lambda x, t: one(explain, x, t))(x, labels)

    def check(found: dict[str, Any]) -> str:
        apart = np.stack([np.abs(maps - found[OURS]) for maps in found.values()]) / np.abs(found[OURS]).max()
        most, largest = np.quantile(apart, 0.999), apart.max()
        # Rounding turns a rectifier on or off where its input is nearly 0, which moves a hundredth of the path.
        if most > 1e-4 or largest > 1e-2:
            raise RuntimeError(f"the maps differ by {most:.1e}, at most {largest:.1e}, of the largest value")
        return f"all maps agree to {most:.0e} of the largest value in 999 of 1000 places, to {largest:.0e} in all"

    title = {
        "ig": f"integrated gradients, {IG_POINTS} points, 64 images, small network",
        "grad_cam": "Grad-CAM, 64 images, small network (ours: its closed form)",
    }
    return Group(title[ours], lambda: np.asarray(run(params, x, labels)), explaining_peers, (ours, params, x, labels), check=check)


def explaining_peers(what: str, params: "Params", x: "np.ndarray", labels: "np.ndarray") -> dict[str, Callable[[], Any]]:
    """The same maps by captum; integrated gradients with all points at once, and one at a time, the latter with the head folded, too."""
    if not installed("torch", "captum"):
        return {}
    import numpy as np
    import torch
    from captum.attr import IntegratedGradients, LayerGradCam

    import irob
    from experiments.benchmarks import peers

    model, folded = (
        peers.TorchNetwork(irob.create("small", (28, 28, 1), 10), params, fold).requires_grad_(False).eval().to(peers.device())
        for fold in (False, True)
    )
    inputs, t = peers.images(x), torch.tensor(labels.astype(np.int64)).to(peers.device())
    if what == "grad_cam":
        cam = LayerGradCam(model, model.last)
        return {"captum": lambda: cam.attribute(inputs.requires_grad_(True), target=t).detach().cpu().numpy()[:, 0]}

    def integrated(model: Any, at_a_time: int | None) -> Any:
        found = IntegratedGradients(model).attribute(
            inputs, target=t, n_steps=IG_POINTS, method="riemann_right", internal_batch_size=at_a_time
        )
        return found.detach().permute(0, 2, 3, 1).cpu().numpy()

    return {
        "captum": lambda: integrated(model, None),
        "captum, 64 at a time": lambda: integrated(model, len(x)),
        "the same, head folded": lambda: integrated(folded, len(x)),
    }


GROUPS: dict[str, Callable[[], Group]] = {
    **{f"{name}_{method}": functools.partial(training_step, name, method) for name in STEPS for method in ("int", "adv", "normal")},
    "pgd": pgd_200,
    "ig": functools.partial(explained, "ig"),
    "grad_cam": functools.partial(explained, "grad_cam"),
}
# On accelerators: attacks in half of the precision.
HALVED: dict[str, Callable[[], Group]] = {
    f"{name}_int_bfloat16": functools.partial(training_step, name, "int", "bfloat16") for name in STEPS
}
