"""Trains three networks on bundled handwritten digits and attacks them: the whole path in minutes.

    python -m experiments.quickstart --workdir runs/quickstart

Normal training, adversarial training (adv) and training for robust interpretation alone (int), which never sees an adversarial loss. Each is
evaluated on the whole test split under the standard protocol, and at one eps by AutoAttack. Writes checkpoints, results.json and figures under the
workdir; interrupted, the same command continues where it was.
"""

import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from experiments.runtime.flags import run_command

if TYPE_CHECKING:
    from experiments.reports.records import Record
    from experiments.reports.results import Result
    from experiments.runtime.models import EvaluatedModel

METHODS = ("normal", "adv", "int")
SHOWN, SHOWN_EPS = 3, 0.1  # test images in the figure of the maps, and their attack
AUTO_EPS = 0.15  # of AutoAttack
TINY_UNFORESEEN = ("jpeg_linf", "elastic")


def quickstart(workdir: pathlib.Path, tiny: bool = False) -> "list[tuple[Result, Result]]":
    """Trains and evaluates the three methods; returns their results: under the standard protocol, and under AutoAttack."""
    from experiments import data
    from experiments.configs import base
    from experiments.evaluation.engine import Evaluation
    from experiments.evaluation.samples import attacked_samples, unforeseen_samples
    from experiments.reports import figures, samples
    from experiments.runtime import storage
    from experiments.runtime.errors import refuse
    from experiments.runtime.models import from_workdir
    from experiments.training.loop import train

    results, shown = [], {}
    folders, files = [workdir, *(workdir / name for name in (*METHODS, "figures"))], [workdir / "results.json"]
    for place, wrong in [*((place, place.is_file()) for place in folders), *((place, place.is_dir()) for place in files)]:
        refuse(wrong, f"{place} is in the way: move it away, or give another --workdir")
    for method in METHODS:
        train(base.load_config(f"digits:{method},tiny" if tiny else f"digits:{method}"), str(workdir / method))
        model = from_workdir(str(workdir / method))
        n = 16 if tiny else None
        standard = evaluated(model, workdir / method / "standard_latest.json", n)
        version = {"version": "quick"} if tiny else {}
        auto = evaluated(model, workdir / method / "standard_latest_autoattack.json", n, "autoattack", (AUTO_EPS,), version)
        results.append((standard, auto))
        evaluation = Evaluation(model, data.load_split(model.dataset, "test"))
        shown[method] = attacked_samples(evaluation, SHOWN, SHOWN_EPS)
    storage.save_text(workdir / "results.json", json.dumps([result.as_dict() for pair in results for result in pair], indent=1) + "\n")
    curves = [figures.curve_of(result.method, accuracies_of(result)) for result, _ in results]
    first, _ = results[0]
    panel = f"{first.data['name']}, {first.n} test images, {first.protocol} protocol"
    accuracies = figures.curves_against_eps({panel: curves}, "accuracy", (0.0, 1.0), "trained by")
    figures.save(accuracies, workdir / "figures" / "accuracy_against_eps.png")
    unforeseen = unforeseen_samples(evaluation, 2, TINY_UNFORESEEN) if tiny else unforeseen_samples(evaluation, 2)
    maps = samples.maps_by_method(shown, SHOWN_EPS, METHODS[-1], unforeseen)
    figures.save(maps, workdir / "figures" / "maps.png")
    return results


def evaluated(
    model: "EvaluatedModel",
    file: pathlib.Path,
    num_examples: int | None,
    measure: str = "pgd",
    eps: tuple[float, ...] | None = None,
    options: "Mapping[str, str] | None" = None,
) -> "Result":
    """The result of a checkpoint: the one on file if it is of that checkpoint, otherwise measured now and filed."""
    from experiments import data
    from experiments.evaluation.engine import Evaluation
    from experiments.evaluation.run import choose_measures, run_measures
    from experiments.reports import results
    from experiments.runtime.errors import UserError

    if file.exists():
        result = results.read_result(file)
        if (result.provenance.get("checkpoint") or {}).get("sha256") == model.provenance["checkpoint"]["sha256"]:
            return result
        raise UserError(f"{file} is not the result of the checkpoint beside it: move it away, or give another --workdir")
    split = data.load_split(model.dataset, "test")
    chosen = choose_measures((measure,), "standard", options, num_examples, split.labels)
    result, arrays = run_measures(Evaluation(model, split, eps, quiet=False), chosen)
    results.write_result(result, arrays, file)
    return result


def accuracies_of(result: "Result") -> "list[Record]":
    """The accuracy of all classes together at each eps."""
    return [record for record in result.records if record.metric in ("clean_accuracy", "robust_accuracy")]


def table(results: "Sequence[tuple[Result, Result]]") -> str:
    """Method x eps, accuracy with its 95% interval; the last column under AutoAttack."""
    first, auto = results[0]
    lines = ["method  " + "".join(f"eps {record['eps']:<18g}" for record in accuracies_of(first)) + f"AutoAttack, eps {AUTO_EPS:g}"]
    for result, attacked in results:
        values = [
            f"{r.value:.3f} [{r.ci95[0]:.3f}, {r.ci95[1]:.3f}]".ljust(22) for r in accuracies_of(result) + accuracies_of(attacked) if r.ci95
        ]
        lines.append(f"{result.method:8}{''.join(values)}".rstrip())
    lines.append(f"Accuracy [95% interval], {first.n} test images of {first.data['name']} ({first.data['from']}), seed {first.seed}.")
    lines += [first.measures["pgd"].description, auto.measures["autoattack"].description]
    return "\n".join(lines)


def main() -> None:
    """Parses flags and runs the three methods."""
    from experiments.configs import base
    from experiments.runtime import devices

    devices.use_cores(base.load_config("digits").batch_size)
    started = time.monotonic()
    workdir = pathlib.Path(flags.FLAGS.workdir)
    print(table(quickstart(workdir, flags.FLAGS.tiny)))
    print(f"Written to {workdir}: results.json, figures/, and a workdir with checkpoints for each method.")
    print(f"{time.monotonic() - started:.0f} seconds", file=sys.stderr)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "where everything goes")
    flags.DEFINE_bool("tiny", False, "eight steps, sixteen test images and two unforeseen attacks, to see that everything works")
    flags.mark_flag_as_required("workdir")
    run_command(main)
