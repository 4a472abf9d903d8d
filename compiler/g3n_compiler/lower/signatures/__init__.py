"""The entry points that are exported, as PyTorch modules with their weights as inputs."""
