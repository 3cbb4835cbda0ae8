"""Training: the recipe (optimizer, schedules), one step, the loop with its log, validation, and the workdir that a run owns."""
