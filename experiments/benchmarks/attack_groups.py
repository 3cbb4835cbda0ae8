"""Attacks and maps, ours and the same by peers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.group import Group, installed
from experiments.benchmarks.timing import OURS

if TYPE_CHECKING:
    import numpy as np

    from irob.models import CAMNetwork
    from irob.types import Params


def trained_on_digits() -> "tuple[CAMNetwork, Params, np.ndarray, np.ndarray]":
    """The small network after a few steps of training on the bundled digits, and 200 test images with labels."""
    import jax
    import numpy as np
    import optax

    import irob
    from experiments.data.digits import load_digits

    network = irob.create("small", (28, 28, 1), 10)
    train, test = load_digits("train", None), load_digits("test", None)
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


PGD = {"eps": 0.05, "step_size": 0.01, "steps": 200}


def pgd_200() -> Group:
    """200 steps of PGD on 200 images, the same for all; ours on all devices, as in evaluation."""
    import jax
    import numpy as np

    import irob
    from experiments.benchmarks import floors
    from experiments.runtime import devices

    network, params, x, labels = trained_on_digits()

    @devices.pmap
    def attack(params: Any, x: Any, labels: Any) -> Any:
        explain = network.frozen(params)
        sizes = irob.constant_steps(PGD["step_size"], int(PGD["steps"]))

        def one(x: Any, t: Any) -> Any:
            return irob.pgd(lambda z: irob.cross_entropy(explain(z).logits, t), irob.LInf(PGD["eps"]), x, step_sizes=sizes)

        x_adv = jax.lax.map(lambda pair: one(*pair), (x, labels), batch_size=50)
        return jax.vmap(lambda z, t: jax.numpy.argmax(network.explain(params, z).logits) == t)(x_adv, labels)

    here = devices.replicate(params), *devices.shard((x, labels))
    cost = floors.attack_step(network, maps=False).times(200 * PGD["steps"])
    return Group(
        "PGD, 200 steps, 200 images, small network",
        lambda: float(np.mean(attack(*here))),
        pgd_peers,
        (params, x, labels),
        cost,
        equal_accuracies,
    )


def equal_accuracies(accuracies: dict[str, float], most: float = 0.011) -> str:
    """Raises unless all accuracies are so near; else says them."""
    if max(accuracies.values()) - min(accuracies.values()) > most:
        raise RuntimeError(f"the attacks do not do the same: {accuracies}")
    return "accuracy under attack: " + ", ".join(f"{name} {value:.3f}" for name, value in accuracies.items())


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
    if installed("foolbox", "git"):  # which foolbox imports
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
    from irob.paper import right_riemann

    network, params, x, labels = trained_on_digits()
    x, labels = x[:64], labels[:64]

    def integrated(explain: Any, x: Any, t: Any) -> Any:
        score = lambda z: pick(explain(z).logits, t)  # noqa: E731
        return irob.integrated_gradients(score, x, points=IG_POINTS, rule=right_riemann).attributions

    def grad_cam(explain: Any, x: Any, t: Any) -> Any:
        return pick(irob.maps.scale_to_logits(explain(x).maps), t)

    one = {"ig": integrated, "grad_cam": grad_cam}[ours]

    @jax.jit
    def run(params: Any, x: Any, labels: Any) -> Any:
        explain = network.frozen(params)
        return jax.vmap(lambda x, t: one(explain, x, t))(x, labels)

    title = {
        "ig": f"integrated gradients, {IG_POINTS} points, 64 images, small network",
        "grad_cam": "Grad-CAM, 64 images, small network (ours: its closed form)",
    }
    return Group(title[ours], lambda: np.asarray(run(params, x, labels)), explaining_peers, (ours, params, x, labels), check=equal_maps)


def equal_maps(found: "dict[str, np.ndarray]") -> str:
    """Raises unless all maps are ours up to rounding; else says how far they differ."""
    import numpy as np

    apart = np.stack([np.abs(maps - found[OURS]) for maps in found.values()]) / np.abs(found[OURS]).max()
    most, largest = np.quantile(apart, 0.999), apart.max()
    # Rounding turns a rectifier on or off where its input is nearly 0, which moves a hundredth of the path.
    if most > 1e-4 or largest > 1e-2:
        raise RuntimeError(f"the maps differ by {most:.1e}, at most {largest:.1e}, of the largest value")
    return f"all maps agree to {most:.0e} of the largest value in 999 of 1000 places, to {largest:.0e} in all"


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
