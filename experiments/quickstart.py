"""Trains three networks on bundled handwritten digits and attacks them: the whole path in minutes.

    python -m experiments.quickstart --workdir runs/quickstart

Normal training, adversarial training (adv) and training for robust interpretation alone (int), which never sees an adversarial loss. Each is
evaluated on the whole test split under the standard protocol. Writes checkpoints, results.json and figures under the workdir; interrupted, the
same command goes on from where it was.
"""

import json
import pathlib
import sys
import time
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import cli
from experiments.cli import UserError

if TYPE_CHECKING:
    import ml_collections

    from experiments.figures import Sample, Unforeseen

METHODS = ("normal", "adv", "int")
SHOWN = 3  # test images in the figure of the maps
SHOWN_EPS = 0.1


def quickstart(workdir: pathlib.Path, tiny: bool = False) -> list[dict[str, Any]]:
    """Trains and evaluates the three methods; returns their results as `evaluate` gives them."""
    from experiments import data, figures, training
    from experiments.configs import digits

    results, samples = [], {}
    for method in METHODS:
        config = digits.get_config(f"{method},tiny" if tiny else method)
        state = training.train(config, str(workdir / method))
        results.append(evaluated(workdir / method, num_examples=16 if tiny else None))
        samples[method] = explained(config, state.params)
    data.save_atomically(workdir / "results.json", lambda file: file.write((json.dumps(results, indent=1) + "\n").encode()))
    figures.save(figures.accuracy_against_eps(results), workdir / "figures" / "accuracy_against_eps.png")
    figures.save(figures.maps(samples, SHOWN_EPS, METHODS[-1], unforeseen(config, state.params)), workdir / "figures" / "maps.png")
    return results


def evaluated(workdir: pathlib.Path, num_examples: int | None) -> dict[str, Any]:
    """The result of this workdir's last checkpoint: the one on file if it is of that checkpoint, else measured now and filed."""
    from experiments import data, evaluate, results, subjects

    file = workdir / "standard_latest.json"
    subject = subjects.from_workdir(str(workdir))
    if file.exists():
        result = results.read(file)
        if result["checkpoint"]["sha256"] == subject.about["checkpoint"]["sha256"]:
            return result
        raise UserError(f"{file} is not the result of the checkpoint beside it: move it away, or give another --workdir")
    result, arrays = evaluate.evaluate(subject, data.load(subject.dataset, "test"), num_examples=num_examples)
    results.write(result, arrays, file)
    return result


def explained(config: "ml_collections.ConfigDict", params: Any) -> "list[Sample]":
    """The first test images with their maps, clean and under one PGD on the margin."""
    import jax
    import numpy as np

    import irob
    from experiments import data, training
    from experiments.figures import Sample
    from experiments.measures import pgd

    network, _ = training.build(config)
    split = data.load(config.dataset, "test").first(SHOWN)
    images, labels = split.fetch(np.arange(SHOWN))
    x = np.asarray(data.to_unit(images))
    ball, sizes = irob.LInf(SHOWN_EPS), irob.decaying_steps(SHOWN_EPS, 60)

    @jax.jit
    def attack(params: Any, x: Any, labels: Any) -> Any:
        explain = network.attack_form(params)
        return jax.vmap(lambda x, t: pgd.attacked_image(explain, irob.margin, ball, x, t, sizes, x, best_iterate=True))(x, labels)

    x_adv = attack(params, x, labels)
    names = data.find(config.dataset).classes
    samples = []
    for image, image_adv, label in zip(x, x_adv, labels, strict=True):
        clean, attacked = network.explain(params, image), network.explain(params, image_adv)
        clean_map, attacked_map = clean.maps[..., label], attacked.maps[..., label]
        taken_for, then_for = (names[int(e.logits.argmax())] for e in (clean, attacked))
        tau = float(irob.kendall_tau(clean_map, attacked_map))
        samples.append(Sample(image, np.asarray(clean_map), np.asarray(image_adv), np.asarray(attacked_map), taken_for, then_for, tau))
    return samples


def unforeseen(config: "ml_collections.ConfigDict", params: Any) -> "list[Unforeseen]":
    """The first test image under every attack that was not foreseen, at the third of its six sizes."""
    import numpy as np

    from experiments import data, protocols, training
    from experiments.evaluator import Evaluator
    from experiments.figures import Unforeseen
    from experiments.measures import Task
    from experiments.measures import unforeseen as measure

    network, _ = training.build(config)
    split = data.load(config.dataset, "test").first(1)
    task = Task(Evaluator(network, params, split, 1, config.seed), protocols.find("standard"), "linf", (0.0,), dataset=config.dataset)
    names, found = data.find(config.dataset).classes, []
    for attack in measure.UNFORESEEN:
        size = protocols.calibrated(attack, config.dataset).eps[2]
        shown = measure.pictures(task, attack, (size,), np.arange(1), split.labels, split.labels)
        prediction = int(shown["shown_predictions"][0, 0])
        found.append(Unforeseen(attack, size, shown["shown"][0, 0], names[prediction] if prediction >= 0 else "nothing"))
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Method x eps, accuracy with its 95% interval."""
    eps = [record["eps"] for record in results[0]["records"]]
    lines = ["method  " + "".join(f"eps {e:<18g}" for e in eps).rstrip()]
    for result in results:
        cells = "".join("{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]".format(**record).ljust(22) for record in result["records"])
        lines.append(f"{result['method']:8}{cells}".rstrip())
    first = results[0]
    lines.append(
        f"Accuracy [95% interval], {first['n']} test images of {first['data']['name']} ({first['data']['from']}), seed {first['seed']}."
    )
    lines.append(f"Attack: {first['protocol']['description']}.")
    return "\n".join(lines)


def main() -> None:
    """Parses flags and runs the three methods."""
    from experiments import parallel
    from experiments.configs import digits

    parallel.use_cores(digits.get_config().batch_size)
    started = time.monotonic()
    workdir = pathlib.Path(flags.FLAGS.workdir)
    results = quickstart(workdir, flags.FLAGS.tiny)
    print(table(results))
    print(f"Written to {workdir}: results.json, figures/, and a workdir with checkpoints for each method.")
    print(f"{time.monotonic() - started:.0f} seconds", file=sys.stderr)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "where everything goes")
    flags.DEFINE_bool("tiny", False, "eight steps and sixteen test images, to see that everything works")
    flags.mark_flag_as_required("workdir")
    cli.run(main)
