"""Requests that arrive together are answered together: one query, one matrix product."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Gathering(Generic[Q, A]):
    """Answers questions in batches: while one is answered in a thread, the next gathers.

    The event loop is never held, however slow the answers are.  It has one thread of its own, so
    that batches do not wait for a place among other requests.  It does not know what a question
    costs: all of a batch wait for the slowest of them.

    Args:
        answer: Questions to as many answers, or exceptions in their place; called in the thread.
        most: Questions in a batch at most.
    """

    def __init__(self, answer: Callable[[Sequence[Q]], Sequence[Any]], most: int) -> None:
        self._answer, self._most = answer, most
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lists")
        self._answering: asyncio.Task[None] | None = None  # the loop keeps only weak references

    async def ask(self, question: Q) -> A:
        """Return the answer to one question.

        Args:
            question: It is answered with all that are asked before the thread is free.
        """
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer_all())
        return await future

    async def _answer_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            questions = [question for question, _ in batch]
            loop = asyncio.get_running_loop()
            try:
                answers = await loop.run_in_executor(self._thread, self._answer, questions)
            except Exception as error:
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # whoever asked has stopped waiting
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
