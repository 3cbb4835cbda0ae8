"""Metrics of explanations, ours and captum's: the same map, radius and number of draws, on the same network and images."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.attack_groups import trained_on_digits
from experiments.benchmarks.group import Group, installed

if TYPE_CHECKING:
    import numpy as np

    from irob.types import Params

IMAGES, DRAWS, RADIUS, SIGMA = 100, 50, 0.02, 0.2


def explanation_metric(name: str) -> Group:
    """The largest sampled sensitivity, or the normalized infidelity, of saliency maps of the label."""
    import jax
    import numpy as np

    from irob.maps import saliency
    from irob.metrics.explanations import infidelity, sampled_sensitivity

    network, params, x, labels = trained_on_digits()
    x, labels = x[:IMAGES], labels[:IMAGES]

    def one(explain: Any, x: Any, t: Any, key: Any) -> Any:
        score = lambda z: explain(z).logits[t]  # noqa: E731
        if name == "sensitivity":
            return sampled_sensitivity(lambda z: saliency(score, z), x, key, radius=RADIUS, draws=DRAWS).largest
        return infidelity(score, x, saliency(score, x), key, sigma=SIGMA, draws=DRAWS).normalized

    @jax.jit
    def run(params: Any, x: Any, labels: Any) -> Any:
        explain = network.frozen(params)
        return jax.vmap(lambda x, t, key: one(explain, x, t, key))(x, labels, jax.random.split(jax.random.key(0), len(x)))

    title = f"{name} of saliency maps, {DRAWS} draws, {IMAGES} images, small network"
    return Group(title, lambda: np.asarray(run(params, x, labels)), metric_peers, (name, params, x, labels), check=near_medians)


def near_medians(found: "dict[str, np.ndarray]") -> str:
    """Raises unless the medians over images are near, the draws being others; else says them."""
    import numpy as np

    medians = {name: float(np.median(values)) for name, values in found.items()}
    if max(medians.values()) > 1.15 * min(medians.values()):
        raise RuntimeError(f"the metrics are not the same: {medians}")
    return "medians: " + ", ".join(f"{name} {value:.3g}" for name, value in medians.items())


def metric_peers(name: str, params: "Params", x: "np.ndarray", labels: "np.ndarray") -> dict[str, Callable[[], Any]]:
    """The same metric by captum, on the same images."""
    if not installed("torch", "captum"):
        return {}
    import numpy as np
    import torch
    from captum.attr import Saliency
    from captum.metrics import infidelity, sensitivity_max

    import irob
    from experiments.benchmarks import peers

    model = peers.TorchNetwork(irob.create("small", (28, 28, 1), 10), params).requires_grad_(False).eval().to(peers.device())
    inputs, t = peers.images(x), torch.tensor(labels.astype(np.int64)).to(peers.device())
    saliency = Saliency(model)

    def signed(inputs: Any, **more: Any) -> Any:
        return saliency.attribute(inputs, abs=False, **more)

    def noise(inputs: Any) -> Any:
        drawn = SIGMA * torch.randn_like(inputs)
        return drawn, inputs - drawn

    def theirs() -> Any:
        torch.manual_seed(0)
        if name == "sensitivity":
            found = sensitivity_max(signed, inputs, perturb_radius=RADIUS, n_perturb_samples=DRAWS, target=t)
        else:
            found = infidelity(model, noise, inputs, signed(inputs, target=t), target=t, n_perturb_samples=DRAWS, normalize=True)
        return found.detach().cpu().numpy()

    return {"captum": theirs}
