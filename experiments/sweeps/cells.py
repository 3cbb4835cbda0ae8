"""The cells of a sweep: a training and its evaluations each, as the command lines that a user would type."""

import hashlib
import itertools
import json
import pathlib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import ml_collections

from experiments.configs import base
from experiments.evaluation.options import SETTINGS
from experiments.evaluation.run import choose_measures
from experiments.reports import results
from experiments.runtime.errors import UserError, refuse
from experiments.runtime.storage import slug
from experiments.runtime.values import integer, number, several


class SweepCell(NamedTuple):
    """One training and its evaluations.

    name: METHOD[_FIELD_VALUE...]/seed_SEED, its folder in the workdir of the sweep.
    workdir: of the training.
    config: `FILE:VARIANT`.
    overrides: `FIELD=VALUE`, of the config.
    evaluations: flags of `experiments.evaluate`, a tuple of texts for each.
    data_dir: where tfds data sets lie; None for tfds's default.
    """

    name: str
    workdir: pathlib.Path
    config: str
    overrides: tuple[str, ...]
    evaluations: tuple[tuple[str, ...], ...]
    data_dir: str | None = None

    def loaded(self) -> ml_collections.ConfigDict:
        """Its config, every field of it checked."""
        config = base.load_config(self.config, self.overrides)
        base.validate_config(config)
        return config

    def results(self) -> list[pathlib.Path]:
        """The result file of each evaluation: its flags, as far as a name has room, and their checksum."""
        return [self.workdir / f"{short_name(flags)}.json" for flags in self.evaluations]

    def results_names(self) -> list[str]:
        """The names of the result files."""
        return [file.name for file in self.results()]

    def commands(self) -> list[list[str]]:
        """The arguments of Python of its training and of each evaluation, in their order."""
        shared = [f"--workdir={self.workdir}", *([f"--data_dir={self.data_dir}"] if self.data_dir else [])]
        train = ["-m", "experiments.train", f"--config={self.config}", *(f"--config.{override}" for override in self.overrides), *shared]
        evaluate = [
            ["-m", "experiments.evaluate", *shared, *self._step(flags), *flags, f"--out={file}"]
            for flags, file in zip(self.evaluations, self.results(), strict=True)
        ]
        return [train, *evaluate]

    def _step(self, flags: Sequence[str]) -> list[str]:
        """The last step, so that a training which was stopped is not evaluated. With `config.patience` the last one is not known before."""
        config = self.loaded()
        return [] if "step" in values_of(flags) or config.patience else [f"--step={config.num_steps}"]

    def left(self) -> list[list[str]]:
        """The commands that are still to be run; none of a finished cell. A training is repeated, which continues it, while a result is missing.

        Raises:
          UserError: for a result of another config.
        """
        train, *evaluate = self.commands()
        files = zip(evaluate, self.results(), self.evaluations, strict=True)
        missing = [command for command, file, flags in files if not self._has(file, flags)]
        return [train, *missing] if missing else []

    def _has(self, file: pathlib.Path, flags: Sequence[str]) -> bool:
        if not file.exists():
            return False
        made, config = results.read_result(file).provenance, self.loaded()
        found = made.get("config") or {}
        differences = base.changes(base.with_defaults(found), base.plain_config(config)) if found else ["no config"]
        if not {"eps", "protocol"} & set(values_of(flags)) and list(made.get("eps", config.evaluation.eps)) != list(config.evaluation.eps):
            differences.append(f"config.evaluation.eps: {made['eps']} -> {list(config.evaluation.eps)}")
        refuse(bool(differences), f"{file} is of another config ({'; '.join(differences[:4])}): use another --workdir, or move it away")
        return True


def short_name(flags: Sequence[str]) -> str:
    """Flags as part of a file name, with the first letters of their checksum: different flags are different files."""
    text = " ".join(flags).replace("--measure=", "").replace("--", "")
    return f"{slug(text)[:80]}_{hashlib.sha256(json.dumps(list(flags)).encode()).hexdigest()[:6]}"


def as_line(commands: Sequence[Sequence[str]]) -> str:
    """Commands as one line of a shell, each if those before it succeeded."""
    return " && ".join(shlex.join([pathlib.Path(sys.executable).name, *command]) for command in commands)


def cells_of(
    workdir: pathlib.Path,
    config: str,
    methods: Sequence[str],
    seeds: int,
    evaluations: Sequence[Sequence[str]],
    overrides: Sequence[str] = (),
    varied: Mapping[str, Sequence[str]] | None = None,
    data_dir: str | None = None,
) -> list[SweepCell]:
    """The cells of a grid, every one checked: each method at each combination of values, first all with the first seed, then with the next.

    Args:
      workdir: of the sweep.
      config: `FILE[:METHOD][,SWITCH...]`; without methods that of the config is swept.
      methods: names of methods, instead of the config's.
      seeds: how many, from the config's on upwards.
      evaluations: flags of `experiments.evaluate` for each.
      overrides: `FIELD=VALUE`, of every cell.
      varied: field -> values, as text.
      data_dir: where tfds data sets lie.

    Raises:
      UserError: for a config that is none, and for cells that are the same.
    """
    refuse(any(each.startswith("method=") for each in overrides), "--config.method: give --methods, or FILE:METHOD")
    file, _, variant = config.partition(":")
    own, *switches = variant.split(",")
    first_seed = base.load_config(config, [each for each in overrides if each.startswith("seed=")]).seed
    cells = []
    for seed in range(first_seed, first_seed + seeds):
        for method, values in itertools.product(methods or [own or "int"], _combinations(varied or {})):
            chosen = (*overrides, *(f"{field}={value}" for field, value in values), f"seed={seed}")
            name = f"{_folder(method, values)}/seed_{seed}"
            given = tuple(tuple(flags) for flags in evaluations)
            cells.append(SweepCell(name, workdir / name, f"{file}:{','.join([method, *switches])}", chosen, given, data_dir))
    refuse(len({cell.name for cell in cells}) < len(cells), "two cells of the sweep are the same: give each method and value once")
    seen: dict[str, str] = {}
    for cell in cells:
        try:
            plain = base.plain_config(cell.loaded())
        except UserError as error:
            raise UserError(f"{cell.name}: {error}") from error
        same = seen.setdefault(json.dumps(plain, sort_keys=True), cell.name)
        refuse(same != cell.name, f"{same} and {cell.name} are the same training: give each value once")
    return cells


def _combinations(varied: Mapping[str, Sequence[str]]) -> Iterator[tuple[tuple[str, str], ...]]:
    for values in itertools.product(*varied.values()):
        yield tuple(zip(varied, values, strict=True))


def _folder(method: str, values: Sequence[tuple[str, str]]) -> str:
    text = lambda value: slug(value.replace("+", "plus").replace("-", "minus"))  # noqa: E731
    parts = [slug(method), *(f"{field.rpartition('.')[2]}_{text(value)}" for field, value in values)]
    return "_".join(parts)


def parse_varied(texts: Sequence[str]) -> dict[str, list[str]]:
    """`FIELD=VALUE|VALUE...` as field -> values.

    Raises:
      UserError: for a text that is none, or a field that is given twice.
    """
    varied: dict[str, list[str]] = {}
    for text in texts:
        field, equals, values = text.partition("=")
        refuse(not equals or not all(part.strip() for part in values.split("|")), f"--vary={text}: give FIELD=VALUE|VALUE...")
        refuse(field in varied, f"--vary={text}: the field {field} is varied twice")
        refuse(field in ("seed", "method"), f"--vary={text}: --{field}s sweeps over {field}s")
        varied[field] = values.split("|")
    return varied


def parse_evaluations(measures: Sequence[str], texts: Sequence[str]) -> list[list[str]]:
    """The flags of each evaluation: one of `--measure` alone, and one for each text of flags; of pgd where there is neither.

    Raises:
      UserError: for a text that is not made of flags, or that gives one which the sweep gives.
    """
    alone = measures or ([] if texts else ["pgd"])
    found = [[f"--measure={','.join(alone)}"]] if alone else []
    for text in texts:
        try:
            flags = shlex.split(text)
        except ValueError as error:
            raise UserError(f"--evaluate={text}: {error}") from error
        refuse(
            not flags or not flags[0].startswith("--"), f"--evaluate={text!r}: give flags of experiments.evaluate, as in '--measure=aai'"
        )
        found.append(flags)
    for flags in found:
        check_evaluation(flags)
    refuse(len({tuple(flags) for flags in found}) < len(found), "--evaluate: two evaluations are the same")
    return found


OF_THE_SWEEP = ("workdir", "out", "weights", "model", "variables", "dataset", "data_dir")  # flags that it gives itself


def values_of(flags: Sequence[str]) -> dict[str, str]:
    """Flag -> value, of `--name=value`, `--name value` and `--name`."""
    values: dict[str, str] = {}
    name = ""
    for part in flags:
        if part.startswith("-"):
            name, _, value = part.lstrip("-").partition("=")
            values[name] = value
        else:
            values[name] = part
    return values


def check_evaluation(flags: Sequence[str]) -> None:
    """Refuses flags that `experiments.evaluate` would refuse after the training: names, measures and values of their options.

    Raises:
      UserError: names the flag.
    """
    given = values_of(flags)
    said = f"--evaluate={shlex.join(flags)!r}"
    taken = [name for name in given if name in OF_THE_SWEEP]
    refuse(bool(taken), f"{said}: the sweep gives --{', --'.join(taken)} itself")
    options = {name: value for name, value in given.items() if name not in (*SETTINGS, "quiet")}
    measures = tuple(given.get("measure", "pgd").split(","))
    try:
        choose_measures(measures, given.get("protocol", "standard"), options)
        for name in ("eps", "num_examples", "seed", "batch_size"):
            if name in given:
                (several(number(), 1) if name == "eps" else integer()).read(given[name])
    except (UserError, ValueError) as error:
        raise UserError(f"{said}: {error}") from error
