"""Programs that hold the whole model in one file, for apps that load nothing else: ``g3n-compile --single-pte``."""
