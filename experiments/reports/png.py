"""The first attacked images of a result as files that one can look at."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.runtime.storage import save_atomically, slug

SHOWN = 10


def write_examples(arrays: Mapping[str, np.ndarray], out: pathlib.Path, classes: Sequence[str]) -> list[pathlib.Path]:
    """Writes the first images of every `examples_N_steps [eps, n, H, W, c]` beside a result: OUT_examples/eps0.1_150_steps_17_dog_as_cat.png.

    PNG rounds to 256 values; the .npz file has the images exactly.
    """
    from PIL import Image

    folder = out.with_name(f"{out.stem}_examples")
    for old in folder.glob("eps*.png"):
        old.unlink()
    written = []
    for key in [key for key in arrays if "/examples_" in key]:
        measure, _, rest = key.partition("/examples_")
        found = {name: arrays[f"{measure}/{name}"] for name in ("eps", "indices", "labels", f"predictions_{rest}")}
        names = lambda c: slug(classes[c]) if c >= 0 else "none"  # noqa: E731
        for e, eps in enumerate(found["eps"]):
            for i in range(min(SHOWN, len(found["indices"]))):
                predicted = found[f"predictions_{rest}"][e, i]
                name = f"eps{eps:.4g}_{rest}_{found['indices'][i]}_{names(found['labels'][i])}_as_{names(predicted)}.png"
                pixels = np.round(255 * arrays[key][e, i]).astype(np.uint8)
                image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
                path = folder / name
                save_atomically(path, lambda file, image=image: image.save(file, format="png"))  # type: ignore[misc]
                written.append(path)
    return written
