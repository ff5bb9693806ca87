"""Recording: the ATen ops of one run on tensors without data, where they come from, and a graph made of them."""
