"""One file per data set; the method is the variant: `--config experiments/configs/mnist.py:int`. `base` has every field."""
