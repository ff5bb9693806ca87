"""ExecuTorch in a process of its own, where its files run."""
