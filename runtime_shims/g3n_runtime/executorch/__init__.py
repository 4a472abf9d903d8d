"""ExecuTorch: the stock runner, and our own loop over the bundle's programs."""
