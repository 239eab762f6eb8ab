"""One run in several processes, each with a GPU of its own: how the work is shared out and put together again.

    accelerate launch --num_processes 4 -m empirics.cli verify

Every process runs the same program and draws the same random numbers; each computes its share of the frozen pass, of every training step
and of the embeddings, and then has what all have computed, up to rounding as one process would have it. The main process alone
writes files and speaks. A single process imports and starts nothing for this.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from theory.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

# Environment variables that are set by whatever starts several processes.
_COUNT, _RANK = "WORLD_SIZE", "RANK"
# The main process may fit signatures for hours while the others wait for it.
_PATIENCE = timedelta(days=7)
# Numbers that travel at once if they do not lie where they are added up, and bytes of a message.
_PIECE = 2**26
_MESSAGE = 4096
# Of accelerate, once this process has joined the others.
_state: Any = None


def launched() -> int:
    """Number of processes that were started for this run."""
    return int(os.environ.get(_COUNT, "1"))


def is_main() -> bool:
    """Whether this process writes and speaks."""
    return launched() == 1 or os.environ.get(_RANK, "0") == "0"


def begin(*, cpu: bool) -> None:
    """Join the other processes, if there are any.

    Parameters
    ----------
    cpu : bool
        Compute on the CPU even if there are GPUs.
    """
    global _state
    if launched() > 1 and _state is None:
        import torch
        from accelerate import PartialState

        _state = PartialState(cpu=cpu or not torch.cuda.is_available(), timeout=_PATIENCE)


def count() -> int:
    """Number of processes that share the work now."""
    return 1 if _state is None else _state.num_processes


def share(items: Sequence[Any] | np.ndarray) -> Any:
    """Of an array or list what falls to this process: every n-th, so that all have much the same."""
    return items if _state is None else items[_state.process_index :: _state.num_processes]


def add_up(tensors: Iterable[torch.Tensor]) -> None:
    """Replace tensors by their sums over all processes, in place; where each wrote its share into zeros, by all shares."""
    if _state is None:
        return
    import torch

    for x in tensors:
        for piece in x.detach().view(-1).split(_PIECE):
            there = piece.to(_state.device)
            torch.distributed.all_reduce(there)
            if there is not piece:
                piece.copy_(there)


def add_up_gradients(parameters: Sequence[torch.Tensor]) -> None:
    """Replace gradients by their sums over all processes; a process without a share of the batch has none of its own."""
    if _state is None:
        return
    import torch

    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    joined = torch.cat([g.flatten() for g in gradients])
    add_up([joined])
    for p, part in zip(parameters, joined.split([g.numel() for g in gradients]), strict=True):
        p.grad = part.view_as(p)


@contextmanager
def together() -> Iterator[None]:
    """What one process raises as bad input inside, all raise, and the main one among them tells it."""
    if _state is None:
        yield
        return
    import torch

    messages = torch.zeros(_state.num_processes, _MESSAGE, dtype=torch.int32)
    try:
        yield
    except InputError as error:
        text = json.dumps([error.argument, error.problem])
        if len(text) > _MESSAGE:
            text = json.dumps([error.argument[:200], error.problem[:800]])
        messages[_state.process_index, : len(text)] = torch.tensor(list(text.encode("ascii")), dtype=torch.int32)
    add_up([messages])
    for message in messages.tolist():
        if message[0]:
            raise InputError(*json.loads(bytes(message).rstrip(b"\0"))) from None


def agree(text: str) -> bool:
    """Whether all processes say the same; all of them get the same answer."""
    if _state is None:
        return True
    import torch

    own = hashlib.sha256(text.encode()).digest()
    digests = torch.zeros(_state.num_processes, len(own), dtype=torch.int32)
    digests[_state.process_index] = torch.tensor(list(own), dtype=torch.int32)
    add_up([digests])
    return bool((digests == digests[0]).all())


def as_main(flags: Sequence[bool]) -> list[bool]:
    """What the main process says, in all of them; each gives as many flags, and the others' are not looked at."""
    if _state is None:
        return list(flags)
    import torch

    told = torch.tensor([float(flag and is_main()) for flag in flags])
    add_up([told])
    return [bool(x) for x in told.tolist()]


def wait() -> None:
    """Go on when every process has come this far."""
    if _state is not None:
        import torch

        add_up([torch.zeros(1)])


def leave_to_main() -> None:
    """End all processes but the main one, which goes on alone: there is no more work to share."""
    global _state
    if _state is not None:
        wait()
        _state.destroy_process_group()
        _state = None
    if not is_main():
        stop(0)


def stop(status: int) -> NoReturn:
    """Leave the program with an exit status."""
    if launched() > 1:
        # Threads of the group's transport may still be running down, and an ordinary exit that meets one aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
