"""What networks cost and are worth, as pages: charts and a table."""
