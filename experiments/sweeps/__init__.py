"""What a sweep is made of: cells, a training with its evaluations each, and the launchers that run them."""
