"""Batches made ready ahead of a GPU: images decoded by a few threads, and copied while the GPU is still at the batch before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from jaxtyping import Float

from empirics.data.images import decode
from empirics.encoders.backbone import pixels

# Batches that are made ready at a time.
_AHEAD = 2
# Bytes of a copy that CUDA stages itself.
_STAGED = 2**16
# Beyond so many, Python holds threads up.
_THREADS = 16
Batch = TypeVar("Batch")
Tensors = TypeVar("Tensors", bound=tuple[torch.Tensor | None, ...])


def ahead(fetch: Callable[[Batch], Tensors], batches: Iterable[Batch], device: torch.device) -> Iterator[Tensors]:
    """What `fetch` makes of each batch, in order; before a GPU in threads and a stream of their own, two batches ahead.

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

    with ThreadPoolExecutor(_AHEAD) as threads:
        waiting: deque[Future[tuple[Tensors, torch.cuda.Event]]] = deque()
        for batch in batches:
            waiting.append(threads.submit(fetch_there, batch))
            if len(waiting) > _AHEAD:
                yield hand_over(waiting.popleft())
                used.append(main.record_event())
                # The host must not run away from the GPU, or all batches would lie in its memory at once.
                if len(used) > 1:
                    used.popleft().synchronize()
        while waiting:
            yield hand_over(waiting.popleft())


def moved(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To the device; if that is a GPU, in such a way that the copy does not hold up the host."""
    if device.type != "cuda" or x.is_cuda:
        return x
    # The driver takes small copies over at once, and memory to pin them may have to be asked for.
    return (x.pin_memory() if x.nbytes > _STAGED else x).to(device, non_blocking=True)


def prepared_images(processor: Any, images: Sequence[Any], device: torch.device, pool: Executor | None) -> Float[torch.Tensor, "n 3 h w"]:
    """Images decoded and preprocessed by the threads of a pool, and moved to the device; the same bytes as without one.

    Raises
    ------
    InputError
        If an image does not decode; of several, the first.
    """
    each = map if pool is None else pool.map
    size = -(-len(images) // image_threads())
    parts = [slice(k, k + size) for k in range(0, len(images), size)]
    ready = list(each(lambda part: pixels(processor, [decode(x) for x in images[part]]), parts))
    # Inference mode is each thread's own: made under the caller's, the tensor could not be filled by the threads of the pool.
    with torch.inference_mode(False):
        together = torch.empty((len(images), *ready[0].shape[1:]), pin_memory=device.type == "cuda")
    list(each(lambda part, x: together[part].copy_(x), parts, ready))
    return together.to(device, non_blocking=True)


def image_threads() -> int:
    """Threads that prepare images: as many as torch computes with, up to sixteen."""
    return min(_THREADS, torch.get_num_threads())
