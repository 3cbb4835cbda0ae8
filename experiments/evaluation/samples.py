"""A few images with their maps, clean and under attack, for a figure."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from experiments import data
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.measures import MEASURES, unforeseen
from experiments.reports.figures import class_name
from experiments.reports.samples import Sample, UnforeseenSample
from irob.attacks import BALLS, best_of_pgd, decaying_steps
from irob.losses import margin_loss
from irob.similarities import kendall_tau
from irob.types import Array, Image, Label, Params, Scalar


def attacked_samples(evaluation: Evaluation, count: int, eps: float) -> list[Sample]:
    """The first test images with their maps, clean and under one PGD on the margin."""
    network, params = evaluation.network, evaluation.model.params
    images, labels = evaluation.split.fetch(np.arange(count))
    x = np.asarray(data.to_unit(images))
    ball, sizes = BALLS[evaluation.norm](eps), decaying_steps(eps, 60)

    @jax.jit
    def attack(params: Params, x: Array, labels: Array) -> Array:
        explain = network.frozen(params)

        def one(x: Image, label: Label) -> Image:
            def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
                value = margin_loss(explain(x_adv).logits, label)
                return value, value

            return best_of_pgd(objective, ball, x, step_sizes=sizes, start=x).x_adv

        return jax.vmap(one)(x, labels)

    explain = functools.partial(network.explain, params)
    classes, samples = data.find_dataset(evaluation.dataset).classes, []
    for image, x_adv, label in zip(x, attack(params, x, labels), labels, strict=True):
        clean, attacked = explain(image), explain(x_adv)
        clean_map, attacked_map = (np.asarray(explanation.maps[..., label]) for explanation in (clean, attacked))
        before, after = (classes[int(explanation.logits.argmax())] for explanation in (clean, attacked))
        tau = float(kendall_tau(clean_map, attacked_map))
        samples.append(Sample(image, clean_map, np.asarray(x_adv), attacked_map, before, after, tau))
    return samples


def unforeseen_samples(evaluation: Evaluation, which: int, attacks: Sequence[str] = tuple(unforeseen.UNFORESEEN)) -> list[UnforeseenSample]:
    """The first test image under unforeseen attacks, by default every one, at one of their calibrated sizes."""
    options, classes = MEASURES["unforeseen"].presets["standard"], data.find_dataset(evaluation.dataset).classes
    label, samples = evaluation.split.labels[:1], []
    for attack in attacks:
        sizes = unforeseen.calibrated_sizes(attack, evaluation.dataset)
        if sizes is not None:
            eps = sizes.eps[min(which, len(sizes.eps) - 1)]
            shown = unforeseen.shown_images(evaluation, options, attack, (eps,), np.arange(1), label, label)
            predicted = class_name(classes, int(shown["shown_predictions"][0, 0]))
            samples.append(UnforeseenSample(attack, eps, shown["shown"][0, 0], predicted))
    return samples
