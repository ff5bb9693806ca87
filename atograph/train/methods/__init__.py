"""How a run trains and prunes: one method a file."""
