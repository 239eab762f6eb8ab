"""Batches made ready ahead of a GPU: images decoded by a few threads, and copied while the GPU is still at the batch before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from jaxtyping import Float

from empirics.encoder import pixels
from empirics.images import decode

# Images that one thread prepares at a time, and the most threads that are worth it: Python holds them up beyond.
_TOGETHER = 8
_THREADS = 16
Batch = TypeVar("Batch")
Tensors = tuple[torch.Tensor | None, ...]


def ahead(fetch: Callable[[Batch], Tensors], batches: Iterable[Batch], device: torch.device) -> Iterator[Tensors]:
    """What `fetch` makes of each batch, in order; before a GPU in a thread and a stream of their own, one batch ahead.

    Parameters
    ----------
    fetch : callable
        From a batch to tensors on the device. It must not run the model, whose modules belong to the calling thread.
    batches : iterable
    device : torch.device
    """
    if device.type != "cuda":
        yield from map(fetch, batches)
        return
    side, main = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def fetch_there(batch: Batch) -> tuple[Tensors, torch.cuda.Event]:
        with torch.cuda.stream(side):
            return fetch(batch), side.record_event()

    used: deque[torch.cuda.Event] = deque()

    def hand_over(fetched: Future[tuple[Tensors, torch.cuda.Event]]) -> Tensors:
        tensors, ready = fetched.result()
        main.wait_event(ready)
        for x in tensors:
            if x is not None:
                # Made in the other stream, its memory must not be given away there before it has been used here.
                x.record_stream(main)
        return tensors

    with ThreadPoolExecutor(1) as thread:
        waiting: Future[tuple[Tensors, torch.cuda.Event]] | None = None
        for batch in batches:
            # The host must not run away from the GPU, or all batches would lie in its memory at once.
            if len(used) > 1:
                used.popleft().synchronize()
            coming = thread.submit(fetch_there, batch)
            if waiting is not None:
                yield hand_over(waiting)
                used.append(main.record_event())
            waiting = coming
        if waiting is not None:
            yield hand_over(waiting)


def moved(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To the device, through pinned memory if that is a GPU, so that the copy does not hold up the host."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and not x.is_cuda else x


def prepared_images(processor: Any, images: Sequence[Any], device: torch.device) -> Float[torch.Tensor, "n 3 h w"]:
    """Images decoded and preprocessed by as many threads as torch computes with, and moved to the device; the same bytes as by one.

    Raises
    ------
    InputError
        If an image does not decode; of several, the first.
    """

    def work(part: Sequence[Any]) -> torch.Tensor:
        return pixels(processor, [decode(x) for x in part])

    parts = [images[k : k + _TOGETHER] for k in range(0, len(images), _TOGETHER)]
    threads = min(_THREADS, torch.get_num_threads(), len(parts))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            ready = list(pool.map(work, parts))
    else:
        ready = [work(part) for part in parts]
    shape = (len(images), *ready[0].shape[1:])
    together = torch.empty(shape, pin_memory=device.type == "cuda")
    return torch.cat(ready, out=together).to(device, non_blocking=True)
