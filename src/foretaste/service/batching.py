"""Requests that arrive together are answered together: one query, one pass of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Gathering(Generic[Q, A]):
    """Answers questions in batches: while one is answered in a thread, the next gathers.

    The event loop is never held, however slow the answers are. Batches have one thread of their
    own, so that they do not wait for a place among other requests. What a question costs is not
    known: all questions of a batch wait for the slowest of them.
    """

    def __init__(self, answer: Callable[[Sequence[Q]], Sequence[Any]], batch_size: int) -> None:
        """Start without questions.

        Args:
            answer: Turns questions into as many answers, or exceptions in their place. It is called
                in the thread.
            batch_size: The largest number of questions in a batch.
        """
        self._answer, self._batch_size = answer, batch_size
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lists")
        self._answering: asyncio.Task[None] | None = None  # the loop keeps only weak references

    async def ask(self, question: Q) -> A:
        """Return the answer to one question.

        Args:
            question: It is answered together with all that are asked before the thread is free.

        Raises:
            Exception: What stands in place of the answer.
        """
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        # Appended before the task is looked at: between the two nothing else runs, since nothing is
        # awaited, so a task that is about to end still finds the question or a new one is started
        # for it.
        self._waiting.append((question, future))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer_all())
        return await future

    async def _answer_all(self) -> None:
        """Answer batch after batch until no question waits."""
        while self._waiting:
            # Everything that came while the last batch was answered is taken at once: the slower
            # the model, the larger the batches, up to the limit.
            batch, self._waiting = (
                self._waiting[: self._batch_size],
                self._waiting[self._batch_size :],
            )
            questions = [question for question, _ in batch]
            loop = asyncio.get_running_loop()
            try:
                answers = await loop.run_in_executor(self._thread, self._answer, questions)
            except Exception as error:
                # One question must not leave the others waiting for ever: all get the error of
                # their batch.
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # the request was given up meanwhile
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
