"""Programs: an FX graph of ATen ops with parameters as inputs, its sizes and shapes; run, exported, imported."""
