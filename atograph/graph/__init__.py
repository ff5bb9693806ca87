"""What `trace` gives: a graph of groups, what they cost, and plans over them."""
