"""What has to change in the calls of a slim module, and how that is found."""
