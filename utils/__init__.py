"""What every other package stands on: options, images, seeds, processes, checkpoints. Knows none of the others."""
