"""Images are read, decoded and cropped by processes of their own, a chunk of a batch at a time, in order."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from aln.data.pictures import Complaint, Part
from aln.data.preparation import Preparation, random_numbers
from aln.data.source import SplitName
from aln.errors import DataError

# So many images are one piece of work: enough that handing them over costs nothing, few enough that a batch's pieces
# keep all processes busy.
CHUNK = 64
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # not a file of ours: what tensors travel through


class Request(NamedTuple):
    """A chunk to prepare: the members at `places` of a split; in training, from position `first` of an epoch on."""

    split: SplitName
    places: np.ndarray
    seed: int | None = None
    first: int = 0


class Bytes(NamedTuple):
    """Encoded images one after the other, uint8, and the length of each; none is of an image that cannot be read."""

    request: Request
    content: Tensor
    lengths: list[int]


class Chunk(NamedTuple):
    """Prepared images [N, S, S, 3] (uint8), labels [N], colours [N, …] of training images, and what was unreadable.

    Or nothing yet of these, but the bytes from which they are to be made.
    """

    images: Tensor
    labels: Tensor
    colours: Tensor
    complaints: list[Complaint]
    encoded: Bytes | None = None


class Preparer:
    """Prepares the chunks that are requested: a pure function of the request, in whichever process."""

    def __init__(self, parts: Mapping[SplitName, Part], preparation: Preparation) -> None:
        self.parts, self.preparation = dict(parts), preparation

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Of the images of a full chunk."""
        return CHUNK, self.preparation.side, self.preparation.side, 3

    @property
    def chunk_bytes(self) -> int:
        """The shared memory that a full chunk takes, about."""
        return int(np.prod(self.chunk_shape))

    def load(self, request: Request, out: Tensor) -> Chunk:
        """What a loader process does of the work, into the memory `out`."""
        return self.prepare(request, out)

    def landed(self, chunk: Chunk, device: torch.device) -> Chunk:
        """What is left to do where the batch is needed, whose images are to go to `device`."""
        return chunk

    def require(self, device: torch.device) -> None:
        """Raises `DataError` if images cannot be prepared for the device."""

    def prepare(self, request: Request, out: Tensor, decoded: Sequence[Tensor | None] | None = None) -> Chunk:
        """The chunk, whose images are the first of `out`, as many as can be read.

        Args:
            decoded: the request's images where they are there already; None for each that has yet to be read.
        """
        part, preparation, training = self.parts[request.split], self.preparation, request.seed is not None
        places = request.places.tolist()
        numbers = random_numbers(request.seed, request.first, len(places)) if request.seed is not None else []
        labels: list[int] = []
        colours: list[list[float]] = []
        complaints: list[Complaint] = []
        for offset, place in enumerate(places):
            image, label = decoded[offset] if decoded else None, part.label(place)
            if image is None:
                found = part.example(place, complaints, replace=training)
                if found is None:
                    continue
                image, label = found
            room = out[len(labels)].permute(2, 0, 1)
            if training:
                preparation.train(image, numbers[offset], room)
                colours.append(preparation.colours(numbers[offset]))
            else:
                preparation.evaluate(image, room)
            labels.append(label)
        return Chunk(out[: len(labels)], torch.tensor(labels, dtype=torch.int64), torch.tensor(colours), complaints)


class _Work(Dataset[tuple[int, Chunk]]):
    """What a loader process is given: the preparer, and slots in shared memory, one of which each chunk goes into.

    Fresh memory for each chunk would cost a loader process a fifth of its time.
    """

    def __init__(self, preparer: Preparer, slots: int) -> None:
        self._preparer = preparer
        self.slots = torch.empty(slots, *preparer.chunk_shape, dtype=torch.uint8).share_memory_()

    def __getitem__(self, item: tuple[int, Request]) -> tuple[int, Chunk]:
        slot, request = item
        chunk = self._preparer.load(request, self.slots[slot])
        return slot, chunk._replace(images=chunk.images[:0])  # the slot's number is enough


class _Feed(Sampler[tuple[int, Request]]):
    """The requests of whichever epoch, each with its slot."""

    def __init__(self, slots: int) -> None:
        self.requests: Iterable[Request] = ()
        self._slots = slots

    def __iter__(self) -> Iterator[tuple[int, Request]]:
        return ((number % self._slots, request) for number, request in enumerate(self.requests))


class _Crew:
    """Loader processes and the memory that they share with this one."""

    def __init__(self, preparer: Preparer, loaders: int, prefetch: int) -> None:
        # The chunks that are ahead, and the one that is being taken over.
        slots = loaders * prefetch + 1
        _require_shared_memory(slots * preparer.chunk_bytes, loaders)
        self._work, self._feed = _Work(preparer, slots), _Feed(slots)
        # The generator keeps the global one out of it. No batch size: an item is a whole chunk.
        self._loader = DataLoader(
            self._work,
            batch_size=None,
            sampler=self._feed,
            num_workers=loaders,
            prefetch_factor=prefetch,
            persistent_workers=True,
            collate_fn=_as_it_is,
            multiprocessing_context=clean_processes(),
            worker_init_fn=end_with_parent,
            generator=torch.Generator(),
        )

    def run(self, requests: Iterable[Request]) -> Generator[Chunk]:
        self._feed.requests = requests
        for slot, chunk in self._loader:
            yield chunk._replace(images=self._work.slots[slot, : len(chunk.labels)])


class Loader:
    """Prepares chunks, by processes that are kept from one epoch to the next.

    Args:
        loaders: number of processes; with 0 chunks are prepared in the caller's, when asked for.
        prefetch: chunks that each process prepares ahead.
    """

    def __init__(self, preparer: Preparer, loaders: int, prefetch: int) -> None:
        self.preparer, self._loaders, self._prefetch = preparer, loaders, prefetch
        self._idle: list[_Crew] = []

    def run(self, requests: Iterable[Request]) -> Generator[Chunk]:
        """The requested chunks in order; a chunk's images are there until the next is asked for.

        May be left before its end. A second run during a first has processes of its own. Raises `DataError` if a
        process fails.
        """
        if not self._loaders:
            out = torch.empty(self.preparer.chunk_shape, dtype=torch.uint8)
            yield from (self.preparer.load(request, out) for request in requests)
            return
        crew = self._idle.pop() if self._idle else _Crew(self.preparer, self._loaders, self._prefetch)
        try:
            yield from crew.run(requests)
        except RuntimeError as error:
            # Torch's message is the other process's traceback, at whose end stands what happened.
            raise DataError(f"loading images failed: {str(error).strip().splitlines()[-1]}") from error
        except GeneratorExit:
            self._idle.append(crew)
            raise
        self._idle.append(crew)


def _require_shared_memory(size: int, loaders: int) -> None:
    """Raises `DataError` where so many bytes have no room; writing them would kill the process (SIGBUS)."""
    if _SHARED_MEMORY.exists() and (free := shutil.disk_usage(_SHARED_MEMORY).free) < size:
        raise DataError(
            f"{_SHARED_MEMORY} has {free / 2**20:.0f} MiB free, {loaders} loaders need {size / 2**20:.0f} MiB: take "
            "fewer loaders or a smaller prefetch, or give the container more (docker run --shm-size)"
        )


def _as_it_is(item: Any) -> Any:
    return item


def clean_processes() -> multiprocessing.context.BaseContext:
    """How processes are started: off a server without threads, CUDA and locks of ours, which has imported this module.

    Where there is no such server (Windows), from nothing.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def end_with_parent(_: int = 0) -> None:
    """Ends this process as soon as the one that asked for it has ended, however that came about."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
