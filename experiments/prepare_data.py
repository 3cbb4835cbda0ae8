"""Writes a data set as a tfds directory in the random-access format that the other commands read.

    python -m experiments.prepare_data --dataset mnist [--data_dir DIR] [--raw_dir DIR_WITH_THE_ORIGINAL_FILES]

Downloads through tfds, which verifies checksums; with --raw_dir it takes the original files from there and needs no network. restricted_imagenet
always needs --raw_dir with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, which only registered users may download. This is the one command
that needs TensorFlow: pip install 'irob[prepare]'.
"""

import importlib.util
import pathlib

from absl import flags

from experiments import cli
from experiments.cli import UserError

# Data set -> name in tfds.
TFDS_NAMES = {"mnist": "mnist", "fashion_mnist": "fashion_mnist", "cifar10": "cifar10", "restricted_imagenet": "imagenet2012"}


def prepare(dataset: str, data_dir: str | None, raw_dir: str | None) -> str:
    """Prepares a data set and reads its splits back; returns a line that says what is there.

    Raises:
      UserError: for an unknown data set, without TensorFlow, or if the raw files are not there or not the released ones.
    """
    if dataset not in TFDS_NAMES:
        bundled = " (digits come with scikit-learn and need no preparation)" if dataset == "digits" else ""
        raise UserError(f"--dataset={dataset}: choose one of {', '.join(TFDS_NAMES)}{bundled}")
    if raw_dir is not None and not pathlib.Path(raw_dir).is_dir():
        raise UserError(f"--raw_dir={raw_dir} is not a directory")
    if dataset == "restricted_imagenet" and raw_dir is None:
        raise UserError("restricted_imagenet needs --raw_dir with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org")
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError("preparing data needs TensorFlow (reading it does not): pip install 'irob[prepare]'")
    import tensorflow_datasets as tfds

    from experiments import data

    builder = tfds.builder(TFDS_NAMES[dataset], data_dir=data_dir, file_format="array_record")
    raw = None if raw_dir is None else pathlib.Path(raw_dir).absolute()
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=raw))
    except Exception as error:  # tfds raises many kinds: no network, a missing file, a checksum that does not match
        advice = (
            "give --raw_dir if there is no network"
            if raw_dir is None
            else f"{raw_dir} must hold the original files under their original names"
        )
        raise UserError(f"{dataset} could not be prepared: {' '.join(str(error).split())[:300]}; {advice}") from error
    counts = [f"{len(data.load(dataset, split, data_dir).labels)} {split}" for split in ("train", "validation", "test")]
    return f"{dataset}: {', '.join(counts)} images in {builder.data_path}"


def main() -> None:
    """Parses flags and prepares."""
    print(prepare(flags.FLAGS.dataset, flags.FLAGS.data_dir, flags.FLAGS.raw_dir))


if __name__ == "__main__":
    flags.DEFINE_string("dataset", None, f"one of {', '.join(TFDS_NAMES)}")
    flags.DEFINE_string("data_dir", None, "where to write (default: $TFDS_DATA_DIR or tfds's own)")
    flags.DEFINE_string("raw_dir", None, "directory with the original files, instead of a download")
    flags.mark_flag_as_required("dataset")
    cli.run(main)
