"""Whether loading keeps up: CPU time an image of the loader, against the bare decoder's, side by side in one run.

    python benchmarks/data_loading.py                 # a table
    python benchmarks/data_loading.py --rounds 15 --out benchmarks/results/data_loading.json

What is counted is CPU time, which others on the machine disturb least; a rate is images over CPU seconds of one core.
- decoder: the decoder that `aln.data.decoding` calls, on JPEG in memory, already as tensors. Nothing else.
- limit: the decoder, then crop, resize and flip by `aln.data.preparation`, boxes drawn beforehand. What no loader of
  these pictures by these kernels can go below.
- loader: everything that a loader process does for the images of an epoch: find, read, verify, decode, draw random
  numbers, crop, resize, put into shared memory, hand over. All CPU time of the process, whichever thread spends it.
- alone: class folders again, but the training process only takes the images over, as with a GPU, and does not disturb
  the loader's caches with its own arithmetic.
- finish: all that the training process does on a CPU until the batch is there as float: take over, copy, standardise,
  distort colours. On a GPU the arithmetic is the device's.

Every round runs one epoch of every variant in random order; a ratio is to the limit, and to the decoder, of the same
round, the table shows medians. Files are in the page cache: disks are not measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import multiprocessing
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from example_images import jpeg, write
from rich.console import Console
from rich.table import Table
from torch import Tensor

from aln.command import guarded
from aln.data import imagenet
from aln.data.decoding import decode, device_decoder
from aln.data.encoded import Encoded
from aln.data.loading import CHUNK, Request
from aln.data.preparation import PREPARATIONS, random_numbers
from aln.data.source import SplitName
from aln.errors import AlnError

BATCH = 64
MODES = ("train", "evaluation")


@dataclass
class Variant:
    """Something under measurement, on all images: CPU seconds of this process and of its loaders, each round."""

    name: str
    preparation: str | None
    mode: str | None
    epoch: Callable[[], object]
    loaders: list[int] = field(default_factory=list)
    here: list[float] = field(default_factory=list)
    there: list[float] = field(default_factory=list)

    def measure(self) -> None:
        here, there = time.process_time(), sum(map(cpu_seconds, self.loaders))
        self.epoch()
        self.here.append(time.process_time() - here)
        self.there.append(sum(map(cpu_seconds, self.loaders)) - there)

    @property
    def seconds(self) -> list[float]:
        """Of the part that is set against the limit: the loaders', where there are any."""
        return self.there if self.loaders else self.here


def cpu_seconds(process: int) -> float:
    """CPU time of all threads of another process, to the nanosecond (Linux's clock_getcpuclockid(3))."""
    return time.clock_gettime(~process << 3 | 2)


def bare_variants(images: list[bytes]) -> list[Variant]:
    """The decoder, and the decoder with the transform of each preparation."""
    decode(images[0])  # imports torchvision
    decoder = device_decoder(torch.device("cpu"))
    if decoder is None:
        raise AlnError("torchvision offers no JPEG decoder")
    encoded = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in images]
    numbers = random_numbers(0, 0, len(images))

    def one(image: Tensor) -> Tensor:
        return decoder([image])[0]

    found = [Variant("decoder", None, None, lambda: [one(image) is None for image in encoded])]
    for name, mode in itertools.product(PREPARATIONS, MODES):
        prepared = PREPARATIONS[name]()

        def epoch(prepared: Any = prepared, train: bool = mode == "train") -> None:
            for image, drawn in zip(encoded, numbers, strict=True):
                picture = one(image)
                _ = prepared.train(picture, drawn) if train else prepared.evaluate(picture)

        found.append(Variant("limit", name, mode, epoch))
    return found


def loader_variants(roots: dict[str, Path], cache: Path) -> list[Variant]:
    """The real path of every layout and of the cache, with one loader process each."""
    found = []
    sources: Iterable[tuple[str, Path, str | None]] = (
        *((name, root, None) for name, root in roots.items()),
        ("cache", roots["folders"], str(cache)),
    )
    for (name, root, stored), preparation in itertools.product(sources, PREPARATIONS):
        before = {process.pid for process in multiprocessing.active_children()}
        source = imagenet(root=str(root), preparation=preparation, cache=stored, loaders=1)  # type: ignore[arg-type]
        consume(source, "train")  # starts the process
        loaders = [p.pid for p in multiprocessing.active_children() if p.pid and p.pid not in before]
        if name == "folders":
            found += [Variant("alone", preparation, mode, partial(drain, source, mode), loaders) for mode in MODES]
        found += [Variant(name, preparation, mode, partial(consume, source, mode), loaders) for mode in MODES]
    return found


def drain(source: Encoded, mode: str) -> None:
    """Takes over what the loader prepares for an epoch, and leaves it at that."""
    split: SplitName = "train" if mode == "train" else "test"
    places = np.arange(len(source.parts[split]))
    seed = 0 if mode == "train" else None
    for _ in source.loader.run(Request(split, places[a : a + CHUNK], seed, a) for a in range(0, len(places), CHUNK)):
        pass


def consume(source: Encoded, mode: str) -> None:
    for _ in source.train_batches(BATCH, seed=0) if mode == "train" else source.batches("test", BATCH):
        pass


def records(variants: list[Variant], images: int) -> list[dict[str, Any]]:
    """One a variant: milliseconds an image, images/s of a core, ratios to the decoder and to the limit."""
    decoder = variants[0]
    limits = {(v.preparation, v.mode): v for v in variants if v.name == "limit"}
    found = []
    for variant in variants:
        seconds = statistics.median(variant.seconds)
        record = {
            "name": variant.name,
            "preparation": variant.preparation,
            "mode": variant.mode,
            "milliseconds": 1e3 * seconds / images,
            "images_per_core_second": images / seconds,
            "of_decoder": _ratio(variant, decoder),
        }
        if variant.preparation and variant.name != "limit":
            record["of_limit"] = _ratio(variant, limits[variant.preparation, variant.mode])
            record["finish_milliseconds"] = 1e3 * statistics.median(variant.here) / images
        found.append({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in record.items()})
    return found


def _ratio(variant: Variant, other: Variant) -> float:
    """Of rates: 1 is as fast as the other."""
    return statistics.median(b / a for a, b in zip(variant.seconds, other.seconds, strict=True))


def table(found: list[dict[str, Any]], title: str) -> Table:
    shown = Table(title=title, title_justify="left")
    for heading in ("preparation", "mode", "what"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("ms an image", "images/s a core", "of the decoder", "of the limit", "finish, ms"):
        shown.add_column(heading, justify="right")
    for record in sorted(found, key=lambda r: (r["preparation"] or "", r["mode"] or "")):
        cells = [f"{record['milliseconds']:.3f}", f"{record['images_per_core_second']:.0f}"]
        cells.append(f"{record['of_decoder']:.2f}")
        cells += [f"{record[k]:.2f}" if k in record else "" for k in ("of_limit", "finish_milliseconds")]
        shown.add_row(record["preparation"] or "", record["mode"] or "", record["name"], *cells)
    return shown


READER = """
import json, re, sys, time, torch
from aln.data import imagenet
torch.set_num_threads(1)
source = imagenet(root=sys.argv[1], cache=sys.argv[2], loaders=0)
def pages(kind):  # of the cache's files, in this process
    maps = re.split(r"\\n(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read())
    return sum(int(re.search(rf"^{kind}: +(\\d+) kB", m, re.M)[1]) for m in maps if ".u8" in m.split("\\n")[0]) / 1024
def epoch():
    return sum(len(labels) for _, labels in source.batches("train", 64))
epoch()
print("ready", flush=True); input()
began, images = time.process_time(), 0
while time.process_time() - began < float(sys.argv[3]):
    images += epoch()
rate = images / (time.process_time() - began)
found = {"images_per_core_second": rate, "batches_per_core_second": rate / 64,
         "mapped_mib": pages("Rss"), "own_part_mib": pages("Pss")}
print(json.dumps(found), flush=True); input()
"""


def shared_cache(root: Path, cache: Path, processes: int, seconds: float) -> list[dict[str, float]]:
    """What processes that evaluate from one cache at the same time reach, and the memory of it that each maps.

    A page that two of them map counts half for each (`own_part_mib`, Linux's proportional set size).
    """
    command = [sys.executable, "-c", READER, str(root), str(cache), str(seconds)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen(command, **pipes) for _ in range(processes)]

    def next_line(reader: subprocess.Popen[str]) -> str:
        assert reader.stdout is not None
        return reader.stdout.readline()

    def go_on() -> None:
        for reader in readers:
            assert reader.stdin is not None
            reader.stdin.write("\n")
            reader.stdin.flush()

    list(map(next_line, readers))
    go_on()
    found = [json.loads(next_line(reader)) for reader in readers]
    go_on()
    for reader in readers:
        reader.communicate()
    return [{key: float(f"{value:.4g}") for key, value in each.items()} for each in found]


def command(options: argparse.Namespace, console: Console) -> int:
    if options.images < BATCH or options.rounds < 1:
        raise AlnError(f"--images {options.images} --rounds {options.rounds}: expected at least {BATCH} and 1")
    logging.getLogger("aln").setLevel(logging.ERROR)  # the cache tells its size
    torch.set_num_threads(1)
    console.width = max(console.width, 120)
    images = [jpeg(seed) for seed in range(options.images // BATCH * BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        roots = write(Path(folder), images)
        cache = Path(folder) / "cache"
        imagenet(root=str(roots["folders"]), cache=str(cache))  # fills it
        # First, while nobody else maps it.
        shared = {str(n): shared_cache(roots["folders"], cache, n, options.seconds) for n in (1, 2)}
        variants = [*bare_variants(images), *loader_variants(roots, cache)]
        order, shuffle = list(variants), random.Random(0)
        for _ in range(options.rounds):
            shuffle.shuffle(order)
            for variant in order:
                variant.measure()
    found = records(variants, len(images))
    size = statistics.mean(map(len, images)) / 1e3
    console.print(table(found, f"{len(images)} JPEG of {size:.0f} kB, {BATCH} a batch, n = {options.rounds}"))
    for number, readers in shared.items():
        told = (
            f"{r['batches_per_core_second']:.0f} batches/s, {r['own_part_mib']:.0f} of {r['mapped_mib']:.0f} MiB own"
            for r in readers
        )
        console.print(f"evaluating from the cache, {number} at once: {'; '.join(told)}", markup=False)
    if options.out:
        head = {
            "benchmark": "data_loading",
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", "torchvision", "pillow", "numpy")},
            "images": {"n": len(images), "mean_bytes": round(1e3 * size), "batch": BATCH},
            "rounds": options.rounds,
            "units": "CPU milliseconds an image; images a second of one core; ratios of rates, 1 is as fast",
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        result = head | {"variants": found, "shared_cache": shared}
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    found = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    found.add_argument("--images", type=int, default=384, help="how many are made (default 384)")
    found.add_argument("--rounds", type=int, default=9, metavar="N", help="epochs of each variant (default 9)")
    found.add_argument(
        "--seconds", type=float, default=5.0, help="of CPU time that readers of the cache read (default 5)"
    )
    found.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    return found


if __name__ == "__main__":
    sys.exit(guarded(command, parser().parse_args()))
