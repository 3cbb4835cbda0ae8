"""Metrics of explanations beside those of captum and Quantus: the same maps, radius and number of draws, on the same network and images."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.attack_groups import trained_on_digits
from experiments.benchmarks.group import Group, installed

if TYPE_CHECKING:
    import numpy as np

    from irob.types import Params

IMAGES, DRAWS, RADIUS, SIGMA = 100, 50, 0.02, 0.2
FLIPS, RUNS, SUBSET = 28, 100, 224  # of pixel flipping; of faithfulness correlation


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


def faithfulness_metric(name: str) -> Group:
    """Pixel flipping, or the faithfulness correlation, of maps gradient x input of the label, which are given."""
    import jax
    import numpy as np

    from irob.maps import gradient_x_input
    from irob.metrics.explanations import faithfulness_correlation, replacement_curve

    network, params, x, labels = trained_on_digits()
    x, labels = x[:IMAGES], labels[:IMAGES]
    explain = network.frozen(params)
    maps = np.asarray(jax.jit(jax.vmap(lambda x, t: gradient_x_input(lambda z: explain(z).logits[t], x)))(x, labels))

    def one(explain: Any, x: Any, t: Any, attribution: Any, key: Any) -> Any:
        if name == "flipping":
            probability = lambda z: jax.nn.softmax(explain(z).logits)[t]  # noqa: E731
            return replacement_curve(probability, x, 0 * x, attribution[..., 0], steps=FLIPS)[1:].mean()
        score = lambda z: explain(z).logits[t]  # noqa: E731
        return faithfulness_correlation(score, x, 0 * x, attribution[..., 0], key, subset=SUBSET, runs=RUNS)

    @jax.jit
    def run(params: Any, *arrays: Any) -> Any:
        explain = network.frozen(params)
        return jax.vmap(lambda *given: one(explain, *given))(*arrays, jax.random.split(jax.random.key(0), IMAGES))

    settings = f"{FLIPS} steps" if name == "flipping" else f"{RUNS} subsets of {SUBSET} pixels"
    title = f"{name} of given maps, {settings}, {IMAGES} images, small network"
    arguments = (name, params, x, labels, maps)
    return Group(title, lambda: np.asarray(run(params, x, labels, maps)), quantus_peers, arguments, check=near_medians)


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


def quantus_peers(name: str, params: "Params", x: "np.ndarray", labels: "np.ndarray", maps: "np.ndarray") -> dict[str, Callable[[], Any]]:
    """The same metric by Quantus, of the same maps."""
    if not installed("torch", "quantus"):
        return {}
    import numpy as np
    import quantus

    import irob
    from experiments.benchmarks import peers

    model = peers.TorchNetwork(irob.create("small", (28, 28, 1), 10), params).requires_grad_(False).eval().to(peers.device())
    first = lambda array: np.ascontiguousarray(array.transpose(0, 3, 1, 2))  # noqa: E731
    given = {"x_batch": first(x), "y_batch": labels.astype(int), "a_batch": first(maps), "softmax": name == "flipping"}
    common = {"perturb_baseline": "black", "abs": False, "disable_warnings": True, "display_progressbar": False}
    if name == "flipping":
        metric = quantus.PixelFlipping(features_in_step=x[0].size // FLIPS, return_auc_per_sample=False, **common)
    else:
        pearson = quantus.similarity_func.correlation_pearson
        metric = quantus.FaithfulnessCorrelation(
            nr_runs=RUNS, subset_size=SUBSET, similarity_func=pearson, return_aggregate=False, **common
        )
    return {"Quantus": lambda: np.array(metric(model=model, device=peers.device(), **given)).reshape(len(x), -1).mean(axis=1)}
