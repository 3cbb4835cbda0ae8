"""A measure with a flag of its own: on how many images is the network confident?"""

import dataclasses

import jax
import numpy as np

from experiments.data import to_unit
from experiments.evaluation.measure import VALUE, Measure, Measured
from experiments.evaluation.options import MeasureOptions, option
from experiments.reports.records import proportion_record
from experiments.runtime.values import number


@dataclasses.dataclass(frozen=True)
class Options(MeasureOptions):
    threshold: float = option(0.5, number(), "probability from which the network is confident")


def run(evaluation, options):
    indices = evaluation.indices(options.images)
    x = to_unit(evaluation.split.fetch(indices)[0])
    logits = jax.vmap(lambda x: evaluation.network.explain(evaluation.model.params, x).logits)(x)
    probability = np.max(jax.nn.softmax(logits), axis=-1)
    return Measured([proportion_record("confident", probability >= options.threshold, above=options.threshold)], {"indices": indices})


CONFIDENT = Measure("Confident predictions", {"standard": Options()}, run, (("above", "above"), *VALUE))
