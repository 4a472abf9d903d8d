"""A conversation whose answers follow from its questions, and its form as text."""

from dataclasses import dataclass

from nano_training import chat

Turn = chat.Turn


@dataclass(frozen=True)
class Example:
    """One conversation.

    The model learns all its own ``turns``; it is scored on the last one, given the right ones before it. ``tools`` are
    declarations as :func:`nano_training.tasks.tools.declare` writes them. ``media`` are the pictures and sounds of the
    first user turn, in order, as indices into the sets that the caller knows.
    """

    task: str
    turns: tuple[Turn, ...]
    system: str = ""
    tools: tuple[str, ...] = ()
    media: tuple[tuple[str, int], ...] = ()

    @property
    def expected(self) -> str:
        """The only right last answer."""
        return self.turns[-1][1]

    def pieces(self) -> list[tuple[str, bool]]:
        """The text in order, without ``<bos>``; true marks what the model says, up to its end of turn.

        The tools stand in a turn of their own, as in the template that LiteRT-LM 0.18 carries for Gemma 3n (its source
        has it as ``runtime/components/testdata/google-gemma-3n-e2b-it-tools.jinja``).
        """
        parts: list[tuple[str, bool]] = []
        opening = ""
        if self.tools:
            declared = "".join(f"{tool.strip()}\n\n" for tool in self.tools)
            opening = f"{chat.START}system\n{declared}{chat.END}\n"
        for i, (user, model) in enumerate(self.turns):
            system = f"{self.system}\n\n" if self.system and i == 0 else ""
            parts.append((f"{opening}{chat.START}user\n{system}{user}{chat.END}\n{chat.START}model\n", False))
            parts.append((f"{model}{chat.END}", True))
            opening = "\n"
        return parts
