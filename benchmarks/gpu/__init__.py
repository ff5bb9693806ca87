"""What is to be known of a GPU, in calls of a few minutes."""
