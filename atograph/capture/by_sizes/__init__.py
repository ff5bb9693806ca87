"""What a model's code decides by sizes that are dynamic."""
