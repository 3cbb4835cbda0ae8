"""AutoAttack and its parts, ours and torchattacks' with the same steps, targets and queries, on the same network and images."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.attack_groups import equal_accuracies, trained_on_digits
from experiments.benchmarks.group import Group, installed

if TYPE_CHECKING:
    import numpy as np

    from irob.types import Params

ENSEMBLE_EPS, IMAGES, QUERIES = 0.05, 100, 1000  # an eps at which about half of the images withstand
# Ours: which stages of AutoAttack `standard`.
PARTS = {
    "autoattack": ("apgd_ce", "apgd_t", "fab_t", "square"),
    "apgd": ("apgd_ce",),
    "apgd_t": ("apgd_t",),
    "fab_t": ("fab_t",),
    "square": ("square",),
}


def ensemble(name: str) -> Group:
    """AutoAttack `standard`, or one of its attacks. (Square with fewer queries, or torchattacks would take minutes.)"""
    import jax

    import irob
    from irob.attacks import stages_of

    network, params, x, labels = trained_on_digits()
    x, labels = x[:IMAGES], labels[:IMAGES]
    chosen = [stage for stage in stages_of("standard", "linf", 10) if stage.name in PARTS[name]]
    stages = tuple(stage._replace(num_steps=QUERIES) if stage.name == "square" else stage for stage in chosen)
    model = irob.bind(network, params)
    size = -(-IMAGES // jax.local_device_count())

    def ours() -> float:
        found = irob.autoattack(model, x, labels, irob.LInf(ENSEMBLE_EPS), stages=stages, batch_size=size * jax.local_device_count())
        return found.robust.value

    queries = f", {QUERIES} queries" if "square" in PARTS[name] else ""
    title = f"{name}: AutoAttack's {', '.join(PARTS[name])}{queries}, {IMAGES} images, small network"
    return Group(title, ours, torch_ensemble, (name, params, x, labels), check=functools.partial(equal_accuracies, most=0.031))


def torch_ensemble(name: str, params: "Params", x: "np.ndarray", labels: "np.ndarray") -> dict[str, Callable[[], Any]]:
    """The same by torchattacks, whose AutoAttack takes 10 steps by default; with 100 here, as the authors' code and ours."""
    if not installed("torch", "torchattacks"):
        return {}
    import numpy as np
    import torch
    import torchattacks

    import irob
    from experiments.benchmarks import peers

    model = peers.TorchNetwork(irob.create("small", (28, 28, 1), 10), params).requires_grad_(False).eval().to(peers.device())
    inputs, t = peers.images(x).contiguous(), torch.tensor(labels.astype(np.int64)).to(peers.device())
    given: dict[str, Any] = {"norm": "Linf", "eps": ENSEMBLE_EPS, "seed": 0}
    parts = {
        "apgd_ce": torchattacks.APGD(model, steps=100, loss="ce", **given),
        "apgd_t": torchattacks.APGDT(model, steps=100, n_classes=10, **given),
        "fab_t": torchattacks.FAB(model, steps=100, multi_targeted=True, n_classes=10, **given),
        "square": torchattacks.Square(model, n_queries=QUERIES, resc_schedule=False, **given),
    }
    attacks = [parts[part] for part in PARTS[name]]
    attack = attacks[0] if len(attacks) == 1 else torchattacks.MultiAttack(attacks)

    def theirs() -> float:
        x_adv = attack(inputs, t)
        with torch.no_grad():
            return float((model(x_adv).argmax(dim=1) == t).float().mean())

    return {"torchattacks": theirs}
