"""Files in int8: a table of how, by target and network; each is measured beside its float32 file before it is kept."""
