"""What was worked out before, by the question that it answers: networks repeat their blocks, and searches
their networks.
"""

from __future__ import annotations

from typing import TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Memory(dict[Question, Answer]):
    """Answers by their questions. A full one starts anew, so that no series of files fills the process."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        _ALL.append(self)

    def keep(self, question: Question, answer: Answer) -> Answer:
        """The answer, which is remembered."""
        if len(self) >= self._most:
            self.clear()
        self[question] = answer
        return answer


def forget() -> None:
    """Empty all memories of the process, as if it had just begun."""
    for memory in _ALL:
        memory.clear()


_ALL: list[Memory] = []  # type: ignore[type-arg]  # of whatever questions
