"""Ensembles of attacks, AutoAttack above all: which attacks, in which order. Later ones see the examples that the earlier ones left.

    standard    APGD-CE, APGD-T (9 targets), FAB-T (9 targets), Square (5,000 queries); in l1 APGD-CE with 5 restarts, and 5 targets
    plus        APGD-CE, APGD-DLR, FAB (5 restarts each), Square, APGD-T, FAB-T
    rand        APGD-CE and APGD-DLR on the mean of 20 draws, for classifiers that draw at random
    quick       APGD-CE, APGD-T (3 targets), Square (1,000 queries): not AutoAttack, for a look

References: Croce & Hein 2020, https://arxiv.org/abs/2003.01690; in l1, 2021, https://arxiv.org/abs/2103.01208 (constants of the authors' code).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from irob.attacks.attack import Attack, AttackResult, ScoredObjective
from irob.attacks.auto_pgd import APGD
from irob.attacks.balls import Ball
from irob.attacks.boundary import FAB
from irob.attacks.hop_skip_jump import HopSkipJump
from irob.attacks.objectives import OBJECTIVES, LogitsFn, expectation
from irob.attacks.square import Square
from irob.types import Array, Image, Label, Logits, PRNGKey


class Stage(NamedTuple):
    """An attack of an ensemble.

    name: of the stage. attack: what ascends. objective: a key of `OBJECTIVES`. num_steps: of each restart.
    restarts: how often. targets: to how many classes, those with the largest clean logits; 0 for an objective without a target.
    """

    name: str
    attack: Attack
    objective: str
    num_steps: int
    restarts: int = 1
    targets: int = 0

    def white_box(self) -> bool:
        """Whether it takes gradients of its objective."""
        return not isinstance(self.attack, Square | HopSkipJump)


def standard(norm: str) -> tuple[Stage, ...]:
    """The version `standard` of AutoAttack."""
    restarts, targets = (5, 5) if norm == "l1" else (1, 9)
    return (
        Stage("apgd_ce", APGD(), "cross_entropy", 100, restarts),
        Stage("apgd_t", APGD(), "dlr_to", 100, targets=targets),
        Stage("fab_t", FAB(), "difference", 100, targets=9),
        Stage("square", Square(), "margin", 5000),
    )


def plus(norm: str) -> tuple[Stage, ...]:
    """The version `plus` of AutoAttack."""
    return (
        Stage("apgd_ce", APGD(), "cross_entropy", 100, 5),
        Stage("apgd_dlr", APGD(), "dlr", 100, 5),
        Stage("fab", FAB(), "nearest_boundary", 100),
        Stage("fab_restarts", FAB(random_start=True), "nearest_boundary", 100, 4),
        Stage("square", Square(), "margin", 5000),
        Stage("apgd_t", APGD(), "dlr_to", 100, targets=9),
        Stage("fab_t", FAB(), "difference", 100, targets=9),
    )


def rand(norm: str) -> tuple[Stage, ...]:
    """The version `rand` of AutoAttack."""
    return Stage("apgd_ce", APGD(), "cross_entropy", 100), Stage("apgd_dlr", APGD(), "dlr", 100)


def quick(norm: str) -> tuple[Stage, ...]:
    """A short one of ours."""
    return (
        Stage("apgd_ce", APGD(), "cross_entropy", 100),
        Stage("apgd_t", APGD(), "dlr_to", 100, targets=3),
        Stage("square", Square(), "margin", 1000),
    )


VERSIONS: dict[str, Callable[[str], tuple[Stage, ...]]] = {"standard": standard, "plus": plus, "rand": rand, "quick": quick}
EOT_SAMPLES = 20  # of the version `rand`


def stages_of(version: str, norm: str, num_classes: int) -> tuple[Stage, ...]:
    """The stages of a version, for so many classes: never more targets than other classes, and where an objective is not defined for so few, the row
    that `OBJECTIVES` has instead.

    Raises:
      ValueError: for an unknown version.

    >>> [stage.objective for stage in stages_of("standard", "linf", 2)]
    ['cross_entropy', 'difference', 'difference', 'margin']
    """
    if version not in VERSIONS:
        raise ValueError(f"unknown version {version!r}: choose one of {', '.join(VERSIONS)}")

    def fitted(stage: Stage) -> Stage:
        row = OBJECTIVES[stage.objective]
        objective = stage.objective if num_classes >= row.least else row.instead
        return stage._replace(objective=objective, targets=min(stage.targets, num_classes - 1))

    return tuple(fitted(stage) for stage in VERSIONS[version](norm))


def substitutions(version: str, norm: str, num_classes: int) -> list[str]:
    """What `stages_of` changed for want of classes, for the record."""
    found = []
    for meant, fitted in zip(VERSIONS[version](norm), stages_of(version, norm, num_classes), strict=True):
        if meant.objective != fitted.objective:
            found.append(f"{meant.name}: {fitted.objective} instead of {meant.objective}")
        if meant.targets != fitted.targets:
            found.append(f"{meant.name}: {fitted.targets} targets instead of {meant.targets}")
    return found


def runner_up(logits: Logits, label: Label, rank: Array) -> Array:
    """The class that ranks so among the others than the label, 0 for the one with the largest logit."""
    others = jnp.where(jnp.arange(len(logits)) == label, -jnp.inf, logits)
    return jnp.argsort(-others)[rank]


def attempt(
    stage: Stage, logits: Callable[..., Logits], ball: Ball, x: Image, label: Label, key: PRNGKey, rank: Any, samples: int = 0
) -> AttackResult:
    """One restart of a stage on one image.

    Args:
      logits: `x -> logits`; with samples `(key, x) -> logits`.
      rank: of the target, where the stage has targets (see `runner_up`); otherwise unused.
      samples: draws that the objective is the mean of; 0 for a classifier that does not draw.
    """
    row = OBJECTIVES[stage.objective]

    def objective_of(logits: LogitsFn) -> ScoredObjective:
        other: Any = runner_up(jax.lax.stop_gradient(logits(x)), label, rank) if row.targeted else 0
        return row.make(ball, logits, label, other)

    if samples:
        key, draw_key = jax.random.split(key)
        objective = expectation(lambda k, z: objective_of(functools.partial(logits, k))(z), draw_key, samples)
    else:
        objective = objective_of(logits)
    return stage.attack(objective, ball, x, key=key, num_steps=stage.num_steps)


def attempts(stage: Stage) -> list[tuple[int, int]]:
    """(restart, rank of the target) of each run of a stage, in its order."""
    return [(restart, rank) for restart in range(stage.restarts) for rank in range(max(stage.targets, 1))]
