"""Trains a network, or continues a training that was interrupted.

    python -m experiments.train --config experiments/configs/mnist.py:int --workdir runs/mnist_int [--config.num_steps=5000 ...]

The workdir gets config.json, metrics.jsonl (one object per line), TensorBoard events and checkpoints/. Started again with the same config, the run
continues from its last checkpoint and ends with the same parameters, bit for bit; a config with another result is refused. SIGTERM and Ctrl-C finish
the step, save and end; a second one ends at once.

Fields of the config (default: those of experiments/configs/base.py, which the config files override), as --config.FIELD=VALUE:

{fields}

and --config.defense.OPTION=VALUE for the options of the method (irob/defenses/).
"""

import sys

from absl import flags

from experiments.runtime.flags import define_data_dir, define_process_flags, define_quiet, run_command


def main() -> None:
    """Parses flags and trains the network."""
    from experiments.configs import base
    from experiments.runtime import devices, provenance
    from experiments.runtime.signals import stop_requests
    from experiments.training.loop import train

    flag = flags.FLAGS
    config = base.load_config(flag.config, flag.config_override)
    base.validate_config(config)
    settings = {f"config.{name}": repr(value) for name, value in base.flat(base.plain_config(config)).items()}
    settings |= {"--from_step": str(flag.from_step), "--extend": str(flag.extend)}
    where = (flag.coordinator, flag.num_processes, flag.process_id)
    if config.network:  # maps of a module of linen have up to seven axes
        devices.avoid_faulty_sums()
    devices.start(*where, config.batch_size, timeout=flag.timeout, settings=settings | provenance.versions())
    if flag.coordinator is not None:  # one process alone must not stop
        train(config, flag.workdir, flag.data_dir, flag.extend, from_step=flag.from_step, quiet=flag.quiet)
        return
    with stop_requests() as stop:
        train(config, flag.workdir, flag.data_dir, flag.extend, stop, flag.from_step, flag.quiet)


if __name__ == "__main__":
    if any(argument.startswith(("--help", "-help")) for argument in sys.argv):
        from experiments.configs.base import describe_fields

        __doc__ = __doc__.replace("{fields}", describe_fields())
    flags.DEFINE_string(
        "config", None, "FILE:METHOD[,SWITCH...], e.g. experiments/configs/mnist.py:int,tiny; or the name of one of the configs"
    )
    flags.DEFINE_multi_string("config_override", [], "FIELD=VALUE, the same as --config.FIELD=VALUE")
    flags.DEFINE_string("workdir", None, "where checkpoints and logs go")
    flags.DEFINE_bool("extend", False, "continue a run of fewer steps to config.num_steps")
    flags.DEFINE_integer("from_step", None, "continue from this checkpoint instead of the last one; later ones are moved to set_aside/")
    define_data_dir()
    define_quiet()
    define_process_flags()
    flags.mark_flags_as_required(["config", "workdir"])
    run_command(main)
