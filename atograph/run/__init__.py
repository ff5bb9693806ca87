"""What a run does, from the model to its folder; and what is done with such a folder afterwards."""
