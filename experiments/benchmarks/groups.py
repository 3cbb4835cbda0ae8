"""What is timed side by side, by name."""

import functools
from collections.abc import Callable

from experiments.benchmarks.attack_groups import explained, pgd_200
from experiments.benchmarks.group import Group
from experiments.benchmarks.own_groups import SIZES, own_network
from experiments.benchmarks.training_groups import STEPS, training_step_group

GROUPS: dict[str, Callable[[], Group]] = {
    **{f"{name}_{method}": functools.partial(training_step_group, name, method) for name in STEPS for method in ("int", "adv", "normal")},
    **{f"own_{name}": functools.partial(own_network, name) for name in SIZES},
    "pgd": pgd_200,
    "ig": functools.partial(explained, "ig"),
    "grad_cam": functools.partial(explained, "grad_cam"),
}
# On accelerators: attacks in half of the precision.
HALF_PRECISION: dict[str, Callable[[], Group]] = {
    f"{name}_int_bfloat16": functools.partial(training_step_group, name, "int", "bfloat16") for name in STEPS
}
