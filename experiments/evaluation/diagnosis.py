"""The items of a diagnosis: can robust accuracy under gradient attacks be believed? Each has a question, a verdict, and what to do when it fails.

Sources: flags of AutoAttack (Croce & Hein 2020, code), the checklist of Carlini et al. 2019 (https://arxiv.org/abs/1902.06705), the indicators of
attack failure of Pintor et al. 2022 (https://arxiv.org/abs/2106.09947), the active test of Zimmermann et al. 2022
(https://arxiv.org/abs/2206.13991).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.reports.strongest import MASKED

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "not applicable"
TOLERANCE = 0.01  # accuracy: what doubling an attack may change
FALLING = 0.05  # of a loss curve rescaled to [0, 1], over its last steps (Pintor et al. 2022)


class Seen(NamedTuple):
    """What was measured of n images. Accuracies are over all of them, misclassified ones count as not robust.

    num_classes: C. eps: the radius of the attacks; ladder, curve: radii, and which images withstand the attack at each `[radii, n]`.
    clean: which images are classified correctly `[n]`, likewise the following: robust (under the attack at eps), one_step, doubled (twice the steps
      and restarts), unbounded (the largest radius), square, hard_label (an attack
      by decisions alone), transferred (PGD on another network; None without one), every_noise (at each of some random points).
    noise: proportion of random points at distance eps that are classified correctly, `[n]`.
    logits: `[n, C]`. spread: largest distance of normalized logits in repeated passes. accuracies: of these passes.
    zero, nonfinite: loss -> at which images its gradient is zero everywhere, or not finite `[n]`.
    losses: of the attack, running maxima rescaled to [0, 1] `[n, steps + 1]`. reached, last: which images some iterate, or the last one, breaks.
    change: relative change of the margin in a small cube `[n]`.
    exists, found: the attack that must succeed: whether it can, and does `[n]`.
    """

    num_classes: int
    eps: float
    ladder: np.ndarray
    curve: np.ndarray
    clean: np.ndarray
    robust: np.ndarray
    one_step: np.ndarray
    doubled: np.ndarray
    unbounded: np.ndarray
    square: np.ndarray
    hard_label: np.ndarray
    transferred: np.ndarray | None
    every_noise: np.ndarray
    noise: np.ndarray
    logits: np.ndarray
    spread: float
    accuracies: list[float]
    zero: dict[str, np.ndarray]
    nonfinite: dict[str, np.ndarray]
    losses: np.ndarray
    reached: np.ndarray
    last: np.ndarray
    change: np.ndarray
    exists: np.ndarray
    found: np.ndarray

    def part(self, which: np.ndarray) -> float:
        """The proportion of all images."""
        return float(np.mean(which))

    def missed(self) -> np.ndarray:
        """Which images the doubled gradient attack leaves, and one without gradients of the network, or noise, does not."""
        withstood = self.square & self.hard_label & self.every_noise & (True if self.transferred is None else self.transferred)
        return self.doubled & self.clean & ~withstood

    def fooled(self) -> float:
        """The proportion of images that the attack breaks."""
        return self.part(self.clean & ~self.robust)


class Finding(NamedTuple):
    """verdict: PASS, FAIL or NOT_APPLICABLE. value: the number behind it."""

    verdict: str
    value: float | None


def passes(holds: bool, value: float) -> Finding:
    """A finding that holds or not."""
    return Finding(PASS if holds else FAIL, float(value))


class Item(NamedTuple):
    """name, question: of an item. measures: what its number is. source: where it is from. judge: what was seen -> finding. remedy: what to do."""

    name: str
    question: str
    measures: str
    source: str
    judge: Callable[[Seen], Finding]
    remedy: str


def probabilities(seen: Seen) -> Finding:
    """Whether the rows of the outputs look like probabilities."""
    in_range = (seen.logits > -1e-5).all() and (seen.logits < 1 + 1e-5).all()
    off = float(np.max(np.abs(seen.logits.sum(axis=1) - 1.0)))
    return passes(not (in_range and off < 1e-5), off)


def randomized(seen: Seen) -> Finding:
    """Whether repeated passes have the same logits."""
    return passes(seen.spread <= 1e-4 and len(set(seen.accuracies)) == 1, seen.spread)


def few_classes(seen: Seen) -> Finding:
    """Whether all losses of AutoAttack are defined; if not, others take their place, which is no fault of the network."""
    return Finding(PASS if seen.num_classes >= 4 else NOT_APPLICABLE, float(seen.num_classes))


def zero_gradient(loss: str) -> Callable[[Seen], Finding]:
    """Whether some gradient of a loss is zero everywhere."""
    return lambda seen: passes(not seen.zero[loss].any(), seen.part(seen.zero[loss]))


def finite(seen: Seen) -> Finding:
    """Whether all logits and gradients are finite."""
    bad = ~np.isfinite(seen.logits).all(axis=1) | seen.nonfinite["margin"] | seen.nonfinite["cross_entropy"]
    return passes(not bad.any(), seen.part(bad))


def iterations_help(seen: Seen) -> Finding:
    """Accuracy under one step minus that under many."""
    gain = seen.part(seen.one_step) - seen.part(seen.robust)
    return passes(gain >= -MASKED, gain)


def monotone(seen: Seen) -> Finding:
    """The largest rise of accuracy from one radius to the next."""
    accuracies = seen.curve.mean(axis=1)
    rise = float(np.max(np.diff(accuracies), initial=0.0))
    return Finding(NOT_APPLICABLE, None) if len(accuracies) < 2 else passes(rise <= TOLERANCE, rise)


def reaches_zero(seen: Seen) -> Finding:
    """Accuracy under the largest radius that makes sense."""
    left = seen.part(seen.unbounded)
    return passes(left <= 1.0 / seen.num_classes, left)


def nothing_beyond(other: Callable[[Seen], np.ndarray | None]) -> Callable[[Seen], Finding]:
    """What another attack breaks and gradients do not."""

    def judge(seen: Seen) -> Finding:
        held = other(seen)
        if held is None:
            return Finding(NOT_APPLICABLE, None)
        missed = seen.part(seen.robust & ~held)
        return passes(missed <= MASKED, missed)

    return judge


def black_box(seen: Seen) -> Finding:
    """Images that an attack without gradients of the network breaks, and the doubled gradient attack does not."""
    missed = int(np.sum(seen.missed()))
    return passes(missed == 0, missed)


def converged(seen: Seen) -> Finding:
    """What doubling steps and restarts takes."""
    gain = seen.part(seen.robust) - seen.part(seen.doubled)
    return passes(gain <= TOLERANCE + 1e-9, gain)


LAST_STEPS = 10


def loss_is_flat(seen: Seen) -> Finding:
    """The proportion of attacks whose loss still rises at the end."""
    rising = seen.losses[:, -1] - seen.losses[:, -1 - min(LAST_STEPS, seen.losses.shape[1] - 1)] > FALLING
    return passes(seen.part(rising) <= 0.1, seen.part(rising))


def silent_success(seen: Seen) -> Finding:
    """Paths with a misclassified point that do not end in one. The attacks here return the best point, so it costs nothing, but another one's may."""
    silent = seen.part(seen.reached & ~seen.last)
    return passes(silent <= 0.1, silent)


def noise_is_weak(seen: Seen) -> Finding:
    """What noise of the same length takes, over what the attack takes."""
    lost = float(np.mean(seen.clean * (1.0 - seen.noise)))
    if seen.fooled() < TOLERANCE:
        return Finding(FAIL if lost > TOLERANCE else NOT_APPLICABLE, lost)
    return passes(lost <= 0.5 * seen.fooled(), lost / seen.fooled())


def stable(seen: Seen) -> Finding:
    """The mean relative change of the margin in a small cube."""
    change = float(np.mean(seen.change))
    return passes(change <= 0.5, change)


def must_succeed(seen: Seen) -> Finding:
    """The proportion of the adversarial examples that provably exist and that the attack finds."""
    if not seen.exists.any():
        return Finding(NOT_APPLICABLE, None)
    found = float(np.mean(seen.found[seen.exists]))
    return passes(found >= 0.9, found)


MORE = "attack with --measure autoattack, and quote its number"
HIDDEN = "gradient attacks say nothing here: differentiate through a substitute (irob.attacks.straight_through), and quote random search"
ITEMS = (
    Item("logits", "are the outputs logits?", "largest distance of a sum of outputs from 1", "AutoAttack", probabilities,
         "give the logits, before the softmax"),
    Item("deterministic", "do repeated passes agree?", "largest distance of normalized logits", "AutoAttack", randomized,
         "attack the mean over draws: irob.autoattack with version rand, irob.attacks.expectation"),
    Item("classes", "are all losses defined?", "classes", "AutoAttack", few_classes, "read which losses took their place (`substituted`)"),
    Item("finite", "are logits and gradients finite?", "images where they are not", "Carlini 4.2", finite,
         "find the operation that overflows; what is not finite is not attacked"),
    Item("gradient_of_margin", "does the margin have gradients?", "images without", "AutoAttack, Pintor 5", zero_gradient("margin"), HIDDEN),
    Item("gradient_of_cross_entropy", "does the cross-entropy have gradients?", "images without", "Carlini 4.2", zero_gradient("cross_entropy"),
         "attack the margin or DLR instead, which do not underflow"),
    Item("random_search", "does random search find nothing new?", "accuracy that Square takes beyond gradients", "AutoAttack, Carlini 4.3",
         nothing_beyond(lambda seen: seen.square), f"gradients are partly masked: {MORE}"),
    Item("hard_label", "do decisions alone find nothing new?", "accuracy that HopSkipJump takes beyond gradients", "Carlini 4.3",
         nothing_beyond(lambda seen: seen.hard_label), f"gradients are masked: {MORE}, and take --attack hop_skip_jump besides"),
    Item("transfer", "does an undefended twin find nothing new?", "accuracy that its attacks take beyond gradients", "Carlini 4.3",
         nothing_beyond(lambda seen: seen.transferred), "gradients are masked: attack through the twin (irob.attacks.transferred)"),
    Item("black_box", "does the white box break all that a black box breaks?", "images", "Carlini 4.3", black_box,
         f"look at these images (`missed` in the arrays); {MORE}"),
    Item("iterations", "are many steps better than one?", "accuracy that they take", "Carlini 4.1", iterations_help,
         "lower the step size; then look for masked gradients"),
    Item("monotone", "does accuracy fall with eps?", "largest rise", "Carlini 4.1", monotone, "the attack is too weak at the larger eps: more steps"),
    Item("unbounded", "does the largest eps leave no more than chance?", "accuracy", "Carlini 4.1, Pintor 4", reaches_zero, HIDDEN),
    Item("converged", "do twice the steps and restarts change nothing?", "accuracy that they take", "Carlini 4.4", converged,
         "take more steps or restarts until nothing changes"),
    Item("flat", "is the loss flat at the end?", "attacks that still rise", "Pintor 2", loss_is_flat, "take more steps"),
    Item("silent_success", "does an attack end where it succeeded?", "paths that do not", "Pintor 1", silent_success,
         "return the best iterate, as best_of_pgd does"),
    Item("noise", "is noise much weaker than the attack?", "what noise takes, over what the attack takes", "Carlini 4.5", noise_is_weak,
         "the attack hardly beats noise: look for masked gradients"),
    Item("stable", "do predictions change slowly?", "relative change of the margin", "Pintor 6", stable,
         "the loss is noisy: average gradients over a neighborhood (irob.attacks.expectation)"),
    Item("must_succeed", "does the attack find what provably exists?", "proportion found", "Zimmermann 2022", must_succeed,
         "this attack is too weak to support a claim on this network"),
)  # fmt: skip
