"""The two clients: one that blocks, one to await. All but sending is shared."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from sam_app_client import datastore, segmenting, serving, volumes
from sam_app_client.base import TIMEOUT_S, BaseClient, awaitable, blocking
from sam_app_client.errors import ConnectionFailedError
from sam_app_client.exchange import Operation, Pause, connection_errors, next_step
from sam_app_client.results import SegmentedImage

T = TypeVar("T")


class Result(SegmentedImage):
    """Objects of an image, found by a :class:`Client`."""

    refine = blocking(segmenting.refine)
    object_mask = blocking(segmenting.object_mask)
    candidate_mask = blocking(segmenting.candidate_mask)
    picture = blocking(segmenting.picture)
    dicom = blocking(segmenting.dicom)
    seg = blocking(segmenting.seg)

    def _run(self, operation: Operation[T]) -> T:
        done: T = self._client._run(operation)  # type: ignore[attr-defined]  # made by a Client
        return done


class AsyncResult(SegmentedImage):
    """Objects of an image, found by an :class:`AsyncClient`: as :class:`Result`, to await."""

    refine = awaitable(segmenting.refine)
    object_mask = awaitable(segmenting.object_mask)
    candidate_mask = awaitable(segmenting.candidate_mask)
    picture = awaitable(segmenting.picture)
    dicom = awaitable(segmenting.dicom)
    seg = awaitable(segmenting.seg)

    def _run(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        done: Coroutine[Any, Any, T] = self._client._run(operation)  # type: ignore[attr-defined]
        return done


class Client(BaseClient[Result]):
    """A client whose methods return when the server has answered. May be used by several threads.

    Args:
        url: The server's address: ``http://127.0.0.1:8000``, with its path if it is behind a proxy.
        key: A key of the server's, where it asks for one; sent as ``Authorization: Bearer``.
        timeout: Seconds to wait for an answer.
        verify: For TLS: a context with a CA of your own, ``ssl.create_default_context(cafile="ca.pem")``.
    """

    _result_type = Result

    segment = blocking(segmenting.segment)
    submit = blocking(segmenting.submit)
    result = blocking(segmenting.result)
    segment_volume = blocking(volumes.segment_volume)
    export = blocking(volumes.export)
    images = blocking(datastore.images)
    upload_image = blocking(datastore.upload_image)
    download_image = blocking(datastore.download_image)
    download_label = blocking(datastore.download_label)
    save_label = blocking(datastore.save_label)
    health = blocking(serving.health)
    train = blocking(serving.train)
    training = blocking(serving.training)
    wait_for_training = blocking(serving.wait_for_training)
    stop_training = blocking(serving.stop_training)
    learned = blocking(serving.learned)
    promote = blocking(serving.promote)
    rollback = blocking(serving.rollback)

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = TIMEOUT_S, verify: ssl.SSLContext | bool = True
    ) -> None:
        super().__init__(url, key)
        self._http = httpx.Client(base_url=self.url, headers=self._headers, timeout=timeout, verify=verify)

    def close(self) -> None:
        """Close the connections to the server."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, operation: Operation[T]) -> T:
        whole, answer, failure = self._after_handshake(operation), None, None
        while True:
            try:
                step = next_step(whole, answer, failure)
            except StopIteration as end:
                done: T = end.value
                return done
            answer, failure = None, None
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                continue
            try:
                with connection_errors(self.url):
                    answer = self._http.send(step.build(self._http))
            except ConnectionFailedError as error:
                failure = error


class AsyncClient(BaseClient[AsyncResult]):
    """A client whose methods are to be awaited, with asyncio; else as :class:`Client`.

    Args:
        url, key, timeout, verify: As of :class:`Client`.
    """

    _result_type = AsyncResult

    segment = awaitable(segmenting.segment)
    submit = awaitable(segmenting.submit)
    result = awaitable(segmenting.result)
    segment_volume = awaitable(volumes.segment_volume)
    export = awaitable(volumes.export)
    images = awaitable(datastore.images)
    upload_image = awaitable(datastore.upload_image)
    download_image = awaitable(datastore.download_image)
    download_label = awaitable(datastore.download_label)
    save_label = awaitable(datastore.save_label)
    health = awaitable(serving.health)
    train = awaitable(serving.train)
    training = awaitable(serving.training)
    wait_for_training = awaitable(serving.wait_for_training)
    stop_training = awaitable(serving.stop_training)
    learned = awaitable(serving.learned)
    promote = awaitable(serving.promote)
    rollback = awaitable(serving.rollback)

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = TIMEOUT_S, verify: ssl.SSLContext | bool = True
    ) -> None:
        super().__init__(url, key)
        self._http = httpx.AsyncClient(base_url=self.url, headers=self._headers, timeout=timeout, verify=verify)

    async def aclose(self) -> None:
        """Close the connections to the server."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, operation: Operation[T]) -> T:
        whole, answer, failure = self._after_handshake(operation), None, None
        while True:
            try:
                step = next_step(whole, answer, failure)
            except StopIteration as end:
                done: T = end.value
                return done
            answer, failure = None, None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                continue
            try:
                with connection_errors(self.url):
                    answer = await self._http.send(step.build(self._http))
            except ConnectionFailedError as error:
                failure = error
