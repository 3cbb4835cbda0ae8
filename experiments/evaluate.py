"""Measures a network: its robust accuracy, its interpretation under attack, the bound between the two.

    python -m experiments.evaluate --workdir runs/mnist_int [--measure pgd,aai,bound,isa,tradeoff,...] [--protocol standard|paper]
    python -m experiments.evaluate --weights mnist_smallgap_int_100.pkl --dataset mnist [...]
    python -m experiments.evaluate --model package.module:make --variables FILE --dataset npz:mine.npz --eps 0,2/255,8/255 [...]

`standard` attacks the whole test split, or that of --split (the first 200 images for bound, isa, tradeoff and unforeseen; or its first
--num_examples) as hard as this project can; `paper` repeats the measurements of the paper's authors on their images. Prints tables, writes one JSON
file with flat records and their provenance, and an .npz with arrays per example. Interrupted, the same command continues where it was.

Measures:

{measures}

or package.module:attribute, a measure of your own. The options of each measure are flags below.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments.runtime.flags import define_data_dir, define_process_flags, define_quiet, given, run_command

if TYPE_CHECKING:
    from experiments.data import Split
    from experiments.evaluation.run import Chosen
    from experiments.runtime.models import EvaluatedModel


def main() -> None:
    """Parses flags, measures, prints and writes."""
    from experiments import data
    from experiments.evaluation import cache
    from experiments.evaluation.engine import Evaluation
    from experiments.evaluation.examples import class_index
    from experiments.evaluation.options import SETTINGS
    from experiments.evaluation.run import check_measures, choose_measures, run_measures
    from experiments.reports import results, text
    from experiments.reports.png import write_examples
    from experiments.runtime import devices, provenance
    from experiments.runtime.checkpoints import fingerprint
    from experiments.runtime.errors import refuse, warn
    from experiments.runtime.models import eps_ladder

    flag = flags.FLAGS
    names, texts = tuple(dict.fromkeys(flag.measure)), {name: str(flag[name].value) for name in OPTION_FLAGS if flag[name].present}
    refuse(not any(names), "--measure is empty: give the name of a measure")
    refuse("" in names, "--measure: a name is empty: give names of measures, separated by commas")
    eps = parsed_eps(flag.eps)
    choose_measures(names, flag.protocol, texts)  # refuses what is wrong before anything is read
    check_flags(flag)
    settings = {f"--{name}": str(flag[name].value) for name in (*SETTINGS, *OPTION_FLAGS)} | provenance.versions()
    where, sizes = (flag.coordinator, flag.num_processes, flag.process_id), [flag.num_examples] if flag.num_examples else []
    devices.avoid_faulty_sums()
    devices.start(*where, *sizes, even=False, timeout=flag.timeout, settings=settings)
    model = opened(flag)
    out = pathlib.Path(flag.out or default_out(flag, model, names, texts))
    results.check_free(out, flag.overwrite)
    split = chosen_split(flag, model.dataset)
    agreed = devices.all_processes_agree(fingerprint(model.params) + str(split.source["sha256"]))
    refuse(not agreed, "the processes do not see the same network and data: give all the same files")
    ladder = eps_ladder(model, eps)
    class_names = data.find_dataset(model.dataset).classes
    classes = tuple(sorted({class_index(text, class_names, "classes") for text in flag.classes or ()}))
    chosen = choose_measures(names, flag.protocol, texts, flag.num_examples, split.labels, classes)
    evaluation = Evaluation(model, split, ladder, flag.batch_size, quiet=flag.quiet)
    check_measures(evaluation, chosen, flag.protocol)
    for name in ("eps", "norm", "seed"):
        read = any(name in measure.reads for measure, _ in chosen.values())
        if flag[name].present and not read:
            warn(f"--{name}: nothing in {', '.join(chosen)} depends on it")
    with cache.resumable(out, cache_settings(model, split.source, chosen, ladder, flag.protocol)) as partial:
        devices.on_first_process(lambda: results.check_free(out, flag.overwrite), str(out), "give another --out")  # again: now it is locked
        evaluation.cache = partial
        result, arrays = run_measures(evaluation, chosen, flag.protocol)
        if devices.is_first_process():
            results.write_result(result, arrays, out)
            write_examples(arrays, out, class_names)
    if devices.is_first_process():
        printed = {name: text.Printed(measure.title, measure.columns, measure.printed) for name, (measure, _) in chosen.items()}
        print(text.result_text(result, printed))
        print(f"written to {out}")


def check_flags(flag: Any) -> None:
    """Refuses flags that do not fit together."""
    from experiments.runtime.errors import refuse

    refuse(flag.batch_size is not None and flag.batch_size < 1, f"--batch_size={flag.batch_size} must be positive")
    refuse(bool(flag["classes"].present) and "" in (flag.classes or [""]), "--classes: a name is empty: give classes, separated by commas")
    given = [name for name in ("workdir", "weights", "model") if flag[name].value]
    refuse(len(given) != 1, "give one of --workdir of a training, --weights FILE.pkl, or --model package.module:make")
    elsewhere = flag.split != "test" and flag.protocol == "paper"
    refuse(elsewhere, f"--split={flag.split}: the paper's protocol has its own test images")
    refuse(flag.dataset is not None and flag.workdir is not None, "--dataset goes with --weights or --model: a workdir knows its own")
    refuse(flag.force and flag.weights is None, "--force goes with --weights")
    refuse(flag.variables is not None and flag.model is None, "--variables goes with --model")
    for name in ("step", "parameters"):
        refuse(flag[name].present and flag.workdir is None, f"--{name} goes with --workdir: a file of weights has no such choice")
    missing = flag.workdir is not None and not pathlib.Path(flag.workdir).is_dir()
    refuse(missing, f"there are no checkpoints in {flag.workdir}: train there first, or give the --workdir of a run")


def opened(flag: Any) -> "EvaluatedModel":
    """The model that the flags name."""
    from experiments.runtime.models import attacked_in, from_model, from_weights, from_workdir

    if flag.weights:
        model = from_weights(flag.weights, flag.dataset, flag.force)
    elif flag.model:
        model = from_model(flag.model, flag.variables, flag.dataset)
    else:
        model = from_workdir(flag.workdir, flag.step, flag.parameters)
    model = model if flag.seed is None else model._replace(seed=flag.seed)
    return attacked_in(model, flag.norm, flag.eps is not None)


def chosen_split(flag: Any, dataset: str) -> "Split":
    """The images that the flags name; their source says of which split they are, unless of test."""
    from experiments import data

    split = data.load_split(dataset, flag.split, flag.data_dir)
    return split if flag.split == "test" else split._replace(source={**split.source, "split": flag.split})


def cache_settings(
    model: "EvaluatedModel", source: Mapping[str, Any], chosen: Mapping[str, "Chosen"], ladder: Sequence[float], protocol: str
) -> dict[str, Any]:
    """What results under way must have in common to be continued."""
    from experiments.evaluation.options import settings
    from experiments.runtime import provenance
    from experiments.runtime.checkpoints import fingerprint
    from experiments.runtime.models import network_digest

    return {
        "measures": {name: settings(own) for name, (_, own) in chosen.items()},
        "protocol": protocol,
        "eps": ladder,
        "norm": model.norm,
        "seed": model.seed,
        "network": [model.provenance["network"], network_digest(model.network, model.params), fingerprint(model.params)],
        "data": source,
        "versions": provenance.versions(),
        "git_revision": provenance.git_revision(),
    }


def default_out(flag: Any, model: "EvaluatedModel", names: Sequence[str], texts: Mapping[str, str]) -> pathlib.Path:
    """WORKDIR/PROTOCOL_STEP.json or runs/WEIGHTS_PROTOCOL.json of robust accuracy, with _MEASURE... and _OPTION... of anything else."""
    from experiments.evaluation.options import flag_fields
    from experiments.evaluation.run import choose_measures
    from experiments.runtime.storage import slug as slug_of

    fields = [flag_fields(own) for _, own in choose_measures(tuple(names), flag.protocol).values()]
    own = [name for name in ("split", "parameters", "norm", "seed", "classes") if flag[name].present]
    named = [name for name in texts if any(name in each and each[name].metadata["in_name"] for each in fields)]
    parts = [
        *(() if list(names) == ["pgd"] else names),
        *(part for name in named for part in texts[name].split(",")),
        *(f"{name}_{flag[name].value if name != 'classes' else '_'.join(flag.classes)}" for name in own),
    ]
    folder, stem = (
        (pathlib.Path(flag.workdir), f"{flag.protocol}_{flag.step}")
        if flag.workdir
        else (pathlib.Path("runs"), f"{slug_of(' '.join([*([flag.model] if flag.model else []), model.name]))}_{flag.protocol}")
    )
    name = "_".join([stem, *parts]).replace(":", "_").replace("/", "_")
    return folder / f"{name}.json"


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
    flags.DEFINE_string("weights", None, "instead of a workdir: a file of weights as the paper's authors released them (see the guide)")
    flags.DEFINE_string(
        "model", None, "instead of a workdir: package.module:make, a function (input_shape, num_classes) as config.network names it"
    )
    flags.DEFINE_string(
        "variables", None, "with --model: file of its variables: .npz, .safetensors, .msgpack, orbax folder; else its initial ones"
    )
    flags.DEFINE_string("dataset", None, "with --weights or --model: the data set to measure on")
    flags.DEFINE_bool("force", False, "with --weights: measure even if weights are not finite")
    flags.DEFINE_list("measure", "pgd", "what to measure, one or several of those above")
    flags.DEFINE_string("step", "latest", "checkpoint: latest, best (robust validation accuracy) or a number")
    flags.DEFINE_enum("parameters", "raw", ["raw", "averaged"], "of the checkpoint: as trained, or their moving average (config.ema_decay)")
    flags.DEFINE_enum("split", "test", ["test", "validation"], "whose images are measured; choose between networks by those of validation")
    flags.DEFINE_string("norm", None, "of the perturbations (default: that of the config); another one needs --eps")
    flags.DEFINE_integer("seed", None, "of the random starts (default: that of the config)", lower_bound=0, upper_bound=2**32 - 1)
    flags.DEFINE_list("classes", None, "measure images of these classes alone, by name or number (standard protocol)")
    flags.DEFINE_string("eps", None, "eps ladder, e.g. 0,0.1,8/255 (default: that of the config)")
    flags.DEFINE_integer("num_examples", None, "measure the first N images of the split (standard protocol)")
    flags.DEFINE_integer(
        "batch_size", None, "images at a time on a device (default: chosen for it); results do not depend on it beyond rounding"
    )
    flags.DEFINE_string(
        "out", None, "result file (default: WORKDIR/PROTOCOL_STEP[_MEASURES][_OPTIONS].json or runs/WEIGHTS_PROTOCOL...json)"
    )
    define_quiet()
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
