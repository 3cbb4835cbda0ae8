"""What every command needs: errors, flags, files, devices, checkpoints, and a model from a name or a workdir."""
