"""Small tasks with one right answer, generated without end from a seed, on which nano is trained and scored."""

from nano_training.tasks.example import Example, Turn
from nano_training.tasks.mixture import TASKS, draw

__all__ = ["TASKS", "Example", "Turn", "draw"]
