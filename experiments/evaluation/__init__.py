"""Evaluation: measures (one file each in `measures`), the engine that runs them over test images, and the presets of a protocol."""
