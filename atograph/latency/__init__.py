"""How long models take in a target's runtime: measured, told layer by layer, and predicted for any widths."""
