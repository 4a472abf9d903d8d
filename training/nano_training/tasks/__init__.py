"""Small tasks with one right answer, generated without end from a seed, on which nano is trained and scored."""
