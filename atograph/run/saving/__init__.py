"""The slim model as a folder that its own library loads; where it cannot be, this is told before the training."""
