"""What the user asked to compile, checked against target, backends and checkpoint: all that takes only seconds."""
