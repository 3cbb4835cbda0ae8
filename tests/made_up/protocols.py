"""A protocol: the standard one with little effort."""

from experiments.evaluation.presets import Protocol

QUICK = Protocol(
    "one short restart",
    base="standard",
    options={
        "pgd": {"restarts": 1, "steps": (3,)},
        "aai": {"restarts": 1, "num_steps": 3},
        "tradeoff": {"num_steps": 3, "eps_rounds": 3, "weight_rounds": 2, "budgets": (2.0,), "discrepancy_classes": ("two_class",)},
        "unforeseen": {"num_steps": 3},
    },
)
