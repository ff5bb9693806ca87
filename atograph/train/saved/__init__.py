"""The state of a training: what is saved, when it is whole, what repeats it."""
