"""Trains three networks on bundled handwritten digits and attacks them: the whole path in minutes.

    python -m experiments.quickstart --workdir runs/quickstart

Normal training, adversarial training (adv) and training for robust interpretation alone (int), which never sees an adversarial loss. Each is
evaluated on the whole test split under the standard protocol, and at one eps by AutoAttack: a sweep (experiments.sweep) with fixed arguments. Writes
checkpoints, results.json and figures under the workdir; interrupted, the same command continues where it was.
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
SHOWN, SHOWN_EPS = 2, 0.1  # test images in the figure of the maps, and their attack
AUTO_EPS = 0.15  # of AutoAttack
EVALUATIONS: tuple[dict[str, str], ...] = ({"measure": "pgd"}, {"measure": "autoattack", "eps": str(AUTO_EPS)})
TINY = ({**EVALUATIONS[0], "num_examples": "16"}, {**EVALUATIONS[1], "num_examples": "16", "version": "quick"})
TINY_UNFORESEEN = ("jpeg_linf", "elastic")


def quickstart(workdir: pathlib.Path, tiny: bool = False) -> "list[tuple[Result, Result]]":
    """Trains and evaluates the three methods; returns their results: under the standard protocol, and under AutoAttack.

    They are the cells of a sweep, run in this process, which compiles what they share once.
    """
    from experiments import data
    from experiments.evaluation.engine import Evaluation
    from experiments.evaluation.samples import attacked_samples, unforeseen_samples
    from experiments.reports import figures, samples
    from experiments.runtime import storage
    from experiments.runtime.errors import refuse
    from experiments.runtime.models import from_workdir
    from experiments.sweeps.cells import cells_of
    from experiments.training.loop import train

    results, shown = [], {}
    evaluations = TINY if tiny else EVALUATIONS
    texts = [[f"--{name}={value}" for name, value in flags.items()] for flags in evaluations]
    cells = cells_of(workdir, "digits:,tiny" if tiny else "digits", METHODS, 1, texts)
    folders, files = [workdir, workdir / "figures", *(cell.workdir for cell in cells)], [workdir / "results.json"]
    for place, wrong in [*((place, place.is_file()) for place in folders), *((place, place.is_dir()) for place in files)]:
        refuse(wrong, f"{place} is in the way: move it away, or give another --workdir")
    for method, cell in zip(METHODS, cells, strict=True):
        train(cell.loaded(), str(cell.workdir))
        model = from_workdir(str(cell.workdir))
        standard, auto = (evaluated(model, file, flags) for file, flags in zip(cell.results(), evaluations, strict=True))
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
    figures.save(samples.maps_by_method(shown, SHOWN_EPS), workdir / "figures" / "maps.png")
    figures.save(samples.unforeseen_images(METHODS[-1], unforeseen), workdir / "figures" / "unforeseen.png")
    return results


def evaluated(model: "EvaluatedModel", file: pathlib.Path, flags: Mapping[str, str]) -> "Result":
    """The result of a checkpoint: the one on file if it is of that checkpoint, otherwise measured now and filed.

    flags: of experiments.evaluate: measure, and eps, num_examples and options of the measure.
    """
    from experiments import data
    from experiments.evaluation.engine import Evaluation
    from experiments.evaluation.run import choose_measures, run_measures
    from experiments.reports import results
    from experiments.runtime.errors import UserError
    from experiments.runtime.values import number, several

    if file.exists():
        result = results.read_result(file)
        if (result.provenance.get("checkpoint") or {}).get("sha256") == model.provenance["checkpoint"]["sha256"]:
            return result
        raise UserError(f"{file} is not the result of the checkpoint beside it: move it away, or give another --workdir")
    split = data.load_split(model.dataset, "test")
    options = {name: value for name, value in flags.items() if name not in ("measure", "eps", "num_examples")}
    num_examples = int(flags["num_examples"]) if "num_examples" in flags else None
    chosen = choose_measures((flags["measure"],), "standard", options, num_examples, split.labels)
    eps = several(number(), 1).read(flags["eps"]) if "eps" in flags else None
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
