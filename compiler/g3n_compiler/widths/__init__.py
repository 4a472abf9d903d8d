"""Choose for each weight whether it has 4 or 8 bits, by what 4 bits do to the model's predictions.

:mod:`.effects` measures that for each weight alone, and :mod:`.choose` makes a recipe of it within a size or a loss.
"""
