"""Trace: the entry points that are exported, and their ``torch.export`` programs."""
