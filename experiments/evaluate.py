"""Measures a network: its robust accuracy, its interpretation under attack, the bound between the two.

    python -m experiments.evaluate --workdir runs/mnist_int [--measure pgd,aai,bound,isa,tradeoff,...] [--protocol standard|paper]
    python -m experiments.evaluate --weights mnist_smallgap_int_100.pkl --dataset mnist [...]

`standard` attacks the whole test split (the first 200 images for bound, isa, tradeoff and unforeseen; or its first --num_examples) as hard as this
project can; `paper` repeats the measurements of the paper's authors on their images. Prints tables, writes one JSON file with flat records and their
provenance, and an .npz with arrays per example. Interrupted, the same command continues where it was.

Measures:

{measures}

or package.module:attribute, a measure of your own. The options of each measure are flags below.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments.runtime.flags import define_data_dir, define_process_flags, given, run_command

if TYPE_CHECKING:
    from experiments.evaluation.run import Chosen
    from experiments.runtime.models import EvaluatedModel


def main() -> None:
    """Parses flags, measures, prints and writes."""
    from experiments import data
    from experiments.evaluation import cache
    from experiments.evaluation.engine import Evaluation
    from experiments.evaluation.run import check_measures, choose_measures, evaluate
    from experiments.reports import results, text
    from experiments.runtime import devices
    from experiments.runtime.models import eps_ladder

    flag = flags.FLAGS
    names, texts = tuple(dict.fromkeys(flag.measure)), {name: str(flag[name].value) for name in OPTION_FLAGS if flag[name].present}
    eps = parsed_eps(flag.eps)
    choose_measures(names, flag.protocol, texts)  # refuses what is wrong before anything is read
    check_flags(flag)
    devices.start(flag.coordinator, flag.num_processes, flag.process_id, *([flag.num_examples] if flag.num_examples else []), even=False)
    model = opened(flag)
    out = pathlib.Path(flag.out or default_out(flag, model, names, texts))
    results.check_free(out, flag.overwrite)
    split = data.load_split(model.dataset, "test", flag.data_dir)
    ladder = eps_ladder(model, eps)
    chosen = choose_measures(names, flag.protocol, texts, flag.num_examples, len(split.labels))
    evaluation = Evaluation(model, split, ladder, flag.batch_size, quiet=False)
    check_measures(evaluation, chosen, flag.protocol)
    with cache.resumable(out, cache_settings(model, split.source, chosen, ladder, flag.protocol)) as partial:
        devices.on_first_process(lambda: results.check_free(out, flag.overwrite), str(out), "give another --out")  # again: now it is locked
        evaluation.cache = partial
        result, arrays = evaluate(evaluation, chosen, flag.protocol)
        if devices.is_first_process():
            results.write_result(result, arrays, out)
    if devices.is_first_process():
        print(text.result_text(result, {name: (measure.title, measure.columns) for name, (measure, _) in chosen.items()}))
        print(f"written to {out}")


def check_flags(flag: Any) -> None:
    """Refuses flags that do not fit together."""
    from experiments.runtime.errors import refuse

    refuse(flag.batch_size is not None and flag.batch_size < 1, f"--batch_size={flag.batch_size} must be positive")
    refuse(bool(flag.workdir) == bool(flag.weights), "give either --workdir of a training or --weights FILE.pkl")
    refuse(flag.dataset is not None and flag.weights is None, "--dataset goes with --weights: a workdir knows its own")
    refuse(flag.force and flag.weights is None, "--force goes with --weights")
    refuse(flag["step"].present and flag.weights is not None, "--step goes with --workdir: a file of weights has no steps")
    missing = flag.workdir is not None and not pathlib.Path(flag.workdir).is_dir()
    refuse(missing, f"there are no checkpoints in {flag.workdir}: train there first, or give the --workdir of a run")


def opened(flag: Any) -> "EvaluatedModel":
    """The model that the flags name."""
    from experiments.runtime.models import from_weights, from_workdir

    return from_weights(flag.weights, flag.dataset, flag.force) if flag.weights else from_workdir(flag.workdir, flag.step)


def cache_settings(
    model: "EvaluatedModel", source: Mapping[str, Any], chosen: Mapping[str, "Chosen"], ladder: Sequence[float], protocol: str
) -> dict[str, Any]:
    """What results under way must have in common to be continued."""
    from experiments.evaluation.options import settings
    from experiments.runtime import provenance
    from experiments.runtime.checkpoints import fingerprint

    return {
        "measures": {name: settings(own) for name, (_, own) in chosen.items()},
        "protocol": protocol,
        "eps": ladder,
        "norm": model.norm,
        "seed": model.seed,
        "network": fingerprint(model.params),
        "data": source,
        "versions": provenance.versions(),
        "git_revision": provenance.git_revision(),
    }


def default_out(flag: Any, model: "EvaluatedModel", names: Sequence[str], texts: Mapping[str, str]) -> pathlib.Path:
    """WORKDIR/PROTOCOL_STEP.json or runs/WEIGHTS_PROTOCOL.json of robust accuracy, with _MEASURE... and _OPTION... of anything else."""
    from experiments.evaluation.options import flag_fields
    from experiments.evaluation.run import choose_measures

    fields = [flag_fields(own) for _, own in choose_measures(tuple(names), flag.protocol).values()]
    named = [name for name in texts if any(name in each and each[name].metadata["in_name"] for each in fields)]
    parts = [*(() if list(names) == ["pgd"] else names), *(part for name in named for part in texts[name].split(","))]
    folder, stem = (
        (pathlib.Path("runs"), f"{model.name}_{flag.protocol}")
        if flag.weights
        else (pathlib.Path(flag.workdir), f"{flag.protocol}_{flag.step}")
    )
    slug = "_".join([stem, *parts]).replace(":", "_").replace("/", "_")
    return folder / f"{slug}.json"


def parsed_eps(text: str | None) -> tuple[float, ...] | None:
    """Numbers or fractions like 8/255, separated by commas."""
    from experiments.runtime.errors import UserError
    from experiments.runtime.values import number, several

    try:
        return None if text is None else several(number(), 1).read(text)
    except ValueError as error:
        raise UserError(f"--eps={text}: {error}") from error


OPTION_FLAGS: list[str] = []


def define_flags(argv: Sequence[str]) -> None:
    """Flags of the command line, and one for each option of the measures: those that come with the project, and those that argv names."""
    flags.DEFINE_string("workdir", None, "directory of a training")
    flags.DEFINE_string("weights", None, "instead of a workdir: a file of weights as the paper's authors released them")
    flags.DEFINE_string("dataset", None, "with --weights: the data set to measure on")
    flags.DEFINE_bool("force", False, "with --weights: measure even if weights are not finite")
    flags.DEFINE_list("measure", "pgd", "what to measure, one or several of those above")
    flags.DEFINE_string("step", "latest", "checkpoint: latest, best (robust validation accuracy) or a number")
    flags.DEFINE_string("eps", None, "eps ladder, e.g. 0,0.1,8/255 (default: that of the config)")
    flags.DEFINE_integer("num_examples", None, "measure the first N images of the test split (standard protocol)")
    flags.DEFINE_integer(
        "batch_size", None, "images at a time on a device (default: chosen for it); results do not depend on it beyond rounding"
    )
    flags.DEFINE_string(
        "out", None, "result file (default: WORKDIR/PROTOCOL_STEP[_MEASURES][_OPTIONS].json or runs/WEIGHTS_PROTOCOL...json)"
    )
    flags.DEFINE_bool("overwrite", False, "replace an existing result file")
    define_data_dir()
    define_process_flags()

    from experiments.evaluation.measures import MEASURES, find_measure
    from experiments.evaluation.options import define_option_flags
    from experiments.evaluation.presets import PROTOCOLS

    protocols = "; ".join(f"{name}: {row.description}" for name, row in PROTOCOLS.items())
    flags.DEFINE_string("protocol", "standard", f"{protocols}; or package.module:attribute")
    own = [name for text in given(argv, "measure") for name in text.split(",") if ":" in name]
    presets = {name: next(iter(find_measure(name).presets.values())) for name in [*MEASURES, *own]}
    OPTION_FLAGS.extend(define_option_flags(presets))
    main_module = sys.modules["__main__"]
    listed = "\n".join(f"    {name:14}{measure.title}" for name, measure in MEASURES.items())
    main_module.__doc__ = (main_module.__doc__ or "").replace("{measures}", listed)


if __name__ == "__main__":
    run_command(main, define=lambda: define_flags(sys.argv))
