"""Everything with an effect: data, devices, checkpoints, results and the command lines around the pure functions of `irob`."""
