"""Writes a data set as a tfds directory in the random-access format that the other commands read.

    python -m experiments.prepare_data --dataset mnist [--data_dir DIR] [--raw_dir DIR_WITH_THE_ORIGINAL_FILES]

Downloads through tfds, which needs TensorFlow (pip install -e '.[prepare]') and verifies checksums; tfds:NAME is any image classification set of it.
With --raw_dir it takes the original files from there, without network and without TensorFlow: the four idx files of mnist or fashion_mnist (packed or
not), cifar-10-binary.tar.gz of cifar10. restricted_imagenet always needs --raw_dir, with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, and
TensorFlow.
"""

from absl import flags

from experiments.runtime.flags import run_command


def main() -> None:
    """Parses flags and prepares the data set."""
    from experiments.data.prepare import prepare

    print(prepare(flags.FLAGS.dataset, flags.FLAGS.data_dir, flags.FLAGS.raw_dir))


if __name__ == "__main__":
    flags.DEFINE_string("dataset", None, "mnist, fashion_mnist, cifar10, restricted_imagenet or tfds:NAME")
    flags.DEFINE_string("data_dir", None, "where to write (default: $TFDS_DATA_DIR or tfds's own)")
    flags.DEFINE_string("raw_dir", None, "directory with the original files, instead of a download")
    flags.mark_flag_as_required("dataset")
    run_command(main)
