"""What is timed side by side, by name."""

import functools
from collections.abc import Callable

from experiments.benchmarks.attack_groups import explained, pgd_200
from experiments.benchmarks.ensemble_groups import PARTS, ensemble
from experiments.benchmarks.explanation_groups import explanation_metric, faithfulness_metric
from experiments.benchmarks.group import Group
from experiments.benchmarks.own_groups import SIZES, own_network
from experiments.benchmarks.training_groups import LARGE_STEPS, STEPS, training_step_group

GROUPS: dict[str, Callable[[], Group]] = {
    **{f"{name}_{method}": functools.partial(training_step_group, name, method) for name in STEPS for method in ("int", "adv", "normal")},
    **{f"own_{name}": functools.partial(own_network, name) for name in SIZES},
    "pgd": pgd_200,
    **{name: functools.partial(ensemble, name) for name in PARTS},
    "ig": functools.partial(explained, "ig"),
    "grad_cam": functools.partial(explained, "grad_cam"),
    "sensitivity": functools.partial(explanation_metric, "sensitivity"),
    "infidelity": functools.partial(explanation_metric, "infidelity"),
    "flipping": functools.partial(faithfulness_metric, "flipping"),
    "faithfulness": functools.partial(faithfulness_metric, "faithfulness"),
}
# On accelerators, or where asked for: attacks in half of the precision, and networks that keep a CPU busy for minutes.
ACCELERATOR_GROUPS: dict[str, Callable[[], Group]] = {
    f"{name}_{method}{suffix}": functools.partial(training_step_group, name, method, dtype)
    for steps, dtypes in ((STEPS, ("bfloat16",)), (LARGE_STEPS, ("float32", "bfloat16")))
    for name in steps
    for method in ("int", "adv")
    for dtype in dtypes
    for suffix in ("" if dtype == "float32" else f"_{dtype}",)
}
