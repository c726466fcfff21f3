"""Data sets of encoded images: too large for memory, read and prepared as they are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import numpy as np
import torch

from aln.data.device_decoding import DeviceDecoding
from aln.data.loading import CHUNK, Chunk, Loader, Preparer, Request
from aln.data.pictures import Part, Unreadable
from aln.data.preparation import Preparation
from aln.data.source import WHOLE, Batch, ImageSource, Share, SplitName, equal_part
from aln.devices import sent
from aln.errors import DataError

DecodeWhere = Literal["loaders", "device"]
PREPARERS: Mapping[str, type[Preparer]] = {"loaders": Preparer, "device": DeviceDecoding}


@dataclass(frozen=True)
class Encoded(ImageSource):
    """Splits of encoded images, read and prepared by processes of their own.

    Which images are in a batch, and how each is cropped and flipped, is a function of the seed and of its position in
    the epoch alone. Bytes travel to the device, and become numbers there.

    An image that cannot be read is logged once. In training the next of its split that can be read stands in for it; an
    evaluation leaves it out. More than one in a thousand, and more than three, are a `DataError`.
    """

    parts: Mapping[SplitName, Part]
    preparation: Preparation
    num_classes: int
    loader: Loader
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    unreadable: Unreadable = field(default_factory=Unreadable)

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            if len(part) == 0:
                raise DataError(f"the {name} split holds no images")

    @classmethod
    def make(
        cls,
        parts: Mapping[SplitName, Part],
        preparation: Preparation,
        num_classes: int,
        *,
        loaders: int | None = None,
        prefetch: int = 4,
        decode: DecodeWhere = "loaders",
    ) -> Encoded:
        """A source on the CPU.

        Args:
            decode: where images are decoded, in the `loaders` or on the `device` (`aln.data.device_decoding`).
            loaders: number of processes that load; 0 loads in this one, None takes as many as torch has threads.
            prefetch: chunks of 64 images that each of them prepares ahead.
        """
        loaders = torch.get_num_threads() if loaders is None else loaders
        if not 0 <= loaders <= 1024:
            raise DataError(f"loaders = {loaders}: expected 0 to 1024 processes")
        if not 1 <= prefetch <= 64:
            raise DataError(f"prefetch = {prefetch}: expected 1 to 64 chunks")
        if decode not in PREPARERS:
            raise DataError(f"decode = {decode!r}: expected {' or '.join(PREPARERS)}")
        preparer = PREPARERS[decode](parts, preparation)
        return cls(parts, preparation, num_classes, Loader(preparer, loaders, prefetch))

    @property
    def input_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        return 3, self.preparation.side, self.preparation.side

    @property
    def skipped(self) -> int:
        return len(self.unreadable)

    def examples(self, split: SplitName) -> int:
        return len(self.parts[split])

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, len(self.parts["train"]) // batch_size)

    def train_batches(self, batch_size: int, seed: int, *, start: int = 0, share: Share = WHOLE) -> Iterator[Batch]:
        part = self.parts["train"]
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed)).numpy()
        mine = equal_part(share, min(batch_size, len(part)))
        firsts = [step * batch_size for step in range(start, self.steps_per_epoch(batch_size))]
        yield from self._batches("train", order, [range(f + mine.start, f + mine.stop) for f in firsts], seed)

    def batches(self, split: SplitName, batch_size: int, *, share: Share = WHOLE) -> Iterator[Batch]:
        part = self.parts[split]
        mine, size = share.of(len(part)), max(1, batch_size // share.workers)
        spans = [range(a, min(a + size, mine.stop)) for a in range(mine.start, mine.stop, size)]
        yield from self._batches(split, np.arange(len(part)), spans, None)

    def to(self, device: torch.device) -> Encoded:
        self.loader.preparer.require(device)
        return replace(self, device=device)

    def _batches(
        self, split: SplitName, order: np.ndarray, spans: Sequence[range], seed: int | None
    ) -> Iterator[Batch]:
        """A batch for each span of positions in the order."""
        requests = (
            Request(split, order[chunk.start : chunk.stop], seed, chunk.start)
            for span in spans
            for chunk in _chunks(span)
        )
        with contextlib.closing(self.loader.run(requests)) as chunks:
            for span in spans:
                images, labels = self._landed(split, islice(chunks, len(_chunks(span))), len(span))
                if len(labels):
                    yield images, labels

    def _landed(self, split: SplitName, chunks: Iterable[Chunk], size: int) -> Batch:
        """The chunks as one batch on the device, of at most `size` images."""
        images, labels = torch.empty(size, *self.input_shape, device=self.device), []
        done = 0
        for loaded in chunks:
            chunk = self.loader.preparer.landed(loaded, self.device)
            self.unreadable.add(split, self.parts[split], chunk.complaints)
            out = images[done : done + len(chunk.labels)]
            done += len(chunk.labels)
            labels.append(chunk.labels)
            colours = sent(chunk.colours, self.device) if split == "train" else None
            self.preparation.finish(sent(chunk.images, self.device).permute(0, 3, 1, 2), colours, out)
        return images[:done], sent(torch.cat(labels), self.device)


def _chunks(span: range) -> list[range]:
    return [span[a : a + CHUNK] for a in range(0, len(span), CHUNK)]
