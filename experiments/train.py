"""Trains a network, or goes on with a training that was interrupted.

    python -m experiments.train --config experiments/configs/mnist.py:int --workdir runs/mnist_int [--config.num_steps=5000 ...]

The workdir gets config.json, metrics.jsonl (one object a line), TensorBoard events and checkpoints/. Started again with the same config, the run
goes on from its last checkpoint and ends with the same parameters, bit for bit; with another config it is refused.
"""

from absl import flags

from experiments import cli


def main() -> None:
    """Parses flags and trains."""
    from experiments import parallel, training

    flag = flags.FLAGS
    parallel.start(flag.coordinator, flag.num_processes, flag.process_id, flag.config.batch_size)
    training.train(flag.config, flag.workdir, flag.data_dir)


if __name__ == "__main__":
    from ml_collections import config_flags

    config_flags.DEFINE_config_file("config", None, "FILE:METHOD[,tiny], e.g. experiments/configs/mnist.py:int", lock_config=True)
    flags.DEFINE_string("workdir", None, "where checkpoints and logs go")
    flags.DEFINE_string("data_dir", None, "where tfds data sets lie (default: $TFDS_DATA_DIR or tfds's own)")
    flags.DEFINE_string("coordinator", None, "several processes: host:port of process 0, or auto on TPU pods")
    flags.DEFINE_integer("num_processes", 1, "how many processes there are")
    flags.DEFINE_integer("process_id", 0, "which one this is")
    flags.mark_flags_as_required(["config", "workdir"])
    cli.run(main)
