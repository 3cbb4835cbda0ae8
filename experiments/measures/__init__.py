"""Everything that can be measured of a network, by name. `MEASURES[name](task)` returns records and arrays by example."""

from collections.abc import Callable

from experiments.measures import aai, inversion, overlap, pgd, sneaking, unforeseen
from experiments.measures.task import Measured, Task

MEASURES: dict[str, Callable[[Task], Measured]] = {
    "pgd": pgd.measure,
    "aai": aai.measure,
    "bound": sneaking.bound,
    "isa": sneaking.isa_table,
    "tradeoff": sneaking.tradeoff,
    "topk_overlap": overlap.measure,
    "inversion": inversion.measure,
    "unforeseen": unforeseen.measure,
}
