"""A plan carried out on a model: masked, and physically smaller."""
