"""Measures the robust accuracy of a trained network.

    python -m experiments.evaluate --workdir runs/mnist_int [--protocol standard|paper] [--step latest|best|N] [--out FILE]

`standard` attacks the whole test split (or its first --num_examples) as hard as this project can; `paper` repeats the measurement of the paper's
authors on their 200 images. Prints a table and writes one JSON file with the records and their provenance.
"""

import json
import os
import pathlib
import time
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import cli
from experiments.cli import UserError

if TYPE_CHECKING:
    from experiments.protocols import Protocol

SCHEMA = 1


def evaluate(
    workdir: str,
    protocol_name: str = "standard",
    step: str = "latest",
    eps_values: tuple[float, ...] | None = None,
    num_examples: int | None = None,
    batch_size: int | None = None,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint; returns what `main` writes: provenance and `records`.

    Args:
      workdir: of a training.
      protocol_name: a key of `protocols.PROTOCOLS`.
      step: "latest", "best" or a step number.
      eps_values: the ladder; None for that of the config.
      num_examples: only the first ones of the test split.
      batch_size: per device, None for the device's default; it does not change results.
      data_dir: where tfds data sets lie.
    """
    import ml_collections
    import tqdm

    from experiments import data, parallel, protocols, provenance, train
    from experiments.checkpoints import Checkpoints
    from experiments.configs import common

    protocol = find_protocol(protocol_name)
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch_size={batch_size} must be positive")
    started = time.monotonic()
    with Checkpoints(workdir, read_only=True) as checkpoints:
        metadata = checkpoints.metadata(step)
        config = ml_collections.ConfigDict(metadata["config"])
        common.validate(config)
        network, _ = train.build(config)
        restored = checkpoints.restore(step, train.initial_state(config, network))
    ladder = tuple(sorted({0.0, *(config.evaluation.eps if eps_values is None else eps_values)}))
    for eps in ladder:
        if not common.is_radius(eps, config.attack.norm):
            raise UserError(
                f"--eps: {eps} is no radius; an l-inf eps is in [0, 1], the range of a pixel, any other is finite and not negative"
            )

    split = data.load(config.dataset, "test", data_dir)
    indices = protocols.chosen(protocol, len(split.labels), num_examples)
    evaluator = protocols.Evaluator(network, restored.state.params, split, batch_size, config.seed)
    outcomes = evaluator.ladder(protocol, config.attack.norm, ladder, indices)
    progress = tqdm.tqdm(outcomes, total=len(ladder), desc=f"{config.dataset} {config.method} {protocol_name}", unit="eps")
    records = [protocols.record(protocol, config.attack.norm, outcome) for outcome in progress]
    return {
        "schema": SCHEMA,
        "method": config.method,
        "protocol": {"name": protocol_name, "description": protocol.description, **settings(protocol)},
        "records": records,
        "n": len(indices),
        "seed": config.seed,
        "data": split.source,
        "checkpoint": {"workdir": str(workdir), "step": restored.step, "sha256": metadata["sha256"], "versions": metadata["versions"]},
        "config": metadata["config"],
        "versions": provenance.versions(),
        "git_revision": provenance.git_revision(),
        "device": parallel.in_words(),
        "processes": parallel.num_processes(),
        "seconds": round(time.monotonic() - started, 1),
    }


def find_protocol(name: str) -> "Protocol":
    """A protocol by name."""
    from experiments import protocols

    if name not in protocols.PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}: choose one of {', '.join(protocols.PROTOCOLS)}")
    return protocols.PROTOCOLS[name]


def settings(protocol: "Protocol") -> dict[str, Any]:
    """The numbers of a protocol, for the record."""
    fields = ("objectives", "restarts", "steps", "random_start", "best_iterate", "nested")
    return {field: getattr(protocol, field) for field in fields} | {"step_sizes": protocol.step_sizes.__name__}


def table(result: dict[str, Any]) -> str:
    """The records as text: accuracy with its 95% interval at each eps."""
    lines = [f"{'eps':>8}  {'accuracy':>8}  95% interval"]
    for record in result["records"]:
        low, high = record["ci95"]
        lines.append(f"{record['eps']:8.4f}  {record['value']:8.3f}  [{low:.3f}, {high:.3f}]")
    source = result["data"]
    lines.append(f"n = {result['n']} test images of {source['name']} ({source['from']}); {result['protocol']['description']}")
    return "\n".join(lines)


def write(result: dict[str, Any], out: pathlib.Path) -> None:
    """Writes a result, whole or not at all; `check_free` comes before the work."""
    from experiments import data

    try:
        data.save_atomically(out, lambda file: file.write((json.dumps(result, indent=1) + "\n").encode()))
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error}): choose another") from error


def check_free(out: pathlib.Path, overwrite: bool) -> None:
    """Refuses a file that exists, unless told to overwrite it, and a place that cannot be written."""
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: give another --out, or --overwrite")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error}): choose another") from error
    if not os.access(out.parent, os.W_OK) or out.is_dir():
        raise UserError(f"--out {out} cannot be written: choose another")


def parse_eps(given: list[str] | None) -> tuple[float, ...] | None:
    """The ladder of --eps; fractions like 8/255 are understood."""
    try:
        return None if given is None else tuple(float(a) / float(b or 1) for a, _, b in (text.partition("/") for text in given))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"--eps={','.join(given or [])}: numbers or fractions, separated by commas, e.g. 0,0.1,8/255") from error


def main() -> None:
    """Parses flags, evaluates, prints and writes."""
    from experiments import parallel

    flag = flags.FLAGS
    eps_values = parse_eps(flag.eps)
    find_protocol(flag.protocol)
    if not pathlib.Path(flag.workdir).is_dir():
        raise UserError(f"there are no checkpoints in {flag.workdir}: train there first, or give the --workdir of a run")
    out = pathlib.Path(flag.out or pathlib.Path(flag.workdir) / f"{flag.protocol}_{flag.step}.json")
    check_free(out, flag.overwrite)
    parallel.start(flag.coordinator, flag.num_processes, flag.process_id)
    result = evaluate(flag.workdir, flag.protocol, flag.step, eps_values, flag.num_examples, flag.batch_size, flag.data_dir)
    if parallel.is_first_process():
        print(table(result))
        write(result, out)
        print(f"written to {out}")


def define_flags() -> None:
    """Flags of the command line."""
    flags.DEFINE_string("workdir", None, "of a training")
    flags.DEFINE_string("protocol", "standard", "standard (as strong as we have) or paper (as its authors measured)")
    flags.DEFINE_string("step", "latest", "checkpoint: latest, best (robust validation accuracy) or a number")
    flags.DEFINE_list("eps", None, "ladder of eps, e.g. 0,0.1,8/255 (default: that of the config)")
    flags.DEFINE_integer("num_examples", None, "only the first ones of the test split (standard protocol)")
    flags.DEFINE_integer("batch_size", None, "images at a time on a device (default: chosen for it); results do not depend on it")
    flags.DEFINE_string("out", None, "result file (default: WORKDIR/PROTOCOL_STEP.json)")
    flags.DEFINE_bool("overwrite", False, "replace an existing result file")
    flags.DEFINE_string("data_dir", None, "where tfds data sets lie (default: $TFDS_DATA_DIR or tfds's own)")
    flags.DEFINE_string("coordinator", None, "several processes: host:port of process 0, or auto on TPU pods")
    flags.DEFINE_integer("num_processes", 1, "how many processes there are")
    flags.DEFINE_integer("process_id", 0, "which one this is")
    flags.mark_flag_as_required("workdir")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
