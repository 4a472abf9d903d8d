"""A command whose engine may end the process; see :mod:`g3n_runtime.guard`."""

from __future__ import annotations

from typing import Any

from g3n_compiler.cli.options import Verb
from g3n_compiler.cli.show import show_error
from g3n_runtime.guard import go_on_in_child


class GuardedCommand(Verb):
    """Runs in a child when it is the program; a caller in the same process, such as a test, is not forked."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if not args and not kwargs:
            go_on_in_child(show_error)
        return super().main(*args, **kwargs)
