"""What the user brings: a file with a model, its data, its loss, its first weights."""
