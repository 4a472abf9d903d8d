"""Choose how many bits each weight has, by what few bits do to the model's predictions.

:mod:`.effects` measures that for each weight alone, and :mod:`.choose` makes a recipe of it within a size or a loss.
"""
