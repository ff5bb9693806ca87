"""The slim model as a folder that its own library loads: written, and told of before the training where it cannot be."""
