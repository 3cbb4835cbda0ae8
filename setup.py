"""Packaging of irob (pure functions) and experiments (the command lines around them)."""

import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "irob" / "__init__.py").read_text())
assert version is not None

setup(
    name="irob",
    version=version[1],
    description="Train classifiers whose explanations stay stable under adversarial attack; attack predictions or explanations; evaluate both (JAX)",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["irob", "irob.*", "experiments", "experiments.*"]),
    package_data={
        "experiments": ["guide/*.md", "results/*.*", "results/networks/*.*", "notebooks/*.ipynb"],
        "experiments.evaluation": ["uar_calibration.json"],
        "experiments.reports": ["templates/*.*", "templates/site/*"],
    },
    python_requires=">=3.11",
    install_requires=[
        # irob
        "jax>=0.10.0",
        "flax>=0.12.0",
        "optax>=0.2.5",
        "jaxtyping>=0.3.0",
        "numpy>=2.0",
        # experiments
        "absl-py>=2.1",
        "array_record>=0.8",  # the random-access file format, read through tfds
        "filelock>=3.12",  # locks of workdirs and results; jax, too, keeps compiled programs within a size by it
        "importlib_resources>=6.4",  # tfds needs it to open array_record directories, and does not say so
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "orbax-checkpoint>=0.11.30",
        "safetensors>=0.5",  # files of variables
        "pillow>=11.0",  # tfds decodes images with it
        "scikit-learn>=1.5",  # the bundled digits
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.7",
        "tqdm>=4.66",
    ],
    extras_require={
        "test": [
            "beartype>=0.20",
            "hypothesis>=6.100",
            "ipykernel>=6.29",  # the notebooks run in the tests
            "latex2mathml>=3.77",
            "mypy>=1.15",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pdoc>=15.0",
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "ruff>=0.11",
            "scipy>=1.13",
            "submitit>=1.5",
            "setuptools>=71",  # to build the wheel that is tested
        ],
        "prepare": ["tensorflow>=2.18"],  # only to download and write data sets; reading needs none
        "docs": ["latex2mathml>=3.77", "pdoc>=15.0"],  # experiments.site
        "slurm": ["submitit>=1.5"],  # experiments.sweep on a cluster
        "tensorboard": ["tensorboard>=2.18"],  # to look at the event files
        # the peers of experiments.benchmark
        "benchmark": ["torch>=2.8", "captum>=0.8", "quantus>=0.6", "foolbox>=3.3", "adversarial-robustness-toolbox>=1.20"],
        "tensorflow": ["tensorflow>=2.18"],  # one more
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
    },
)
