"""How many threads a training computes with: as many as its resources say, whatever computed here before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info

from aln.config import parse_run
from aln.job import Job
from aln.threads import compute_with


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    compute_with(1)


@pytest.mark.parametrize("cores", [2, 1, 3])
def test_torch_openmp_and_blas_follow_the_cores_of_a_job(small_run: dict[str, Any], cores: int) -> None:
    import sklearn.datasets  # noqa: F401 - brings an OpenMP and a BLAS of its own

    compute_with(4 - cores)
    content = copy.deepcopy(small_run) | {"resources": {"cpus": cores}, "epochs": 1}
    list(Job(parse_run(content)).train())
    assert torch.get_num_threads() == cores
    pools = {(pool["user_api"], pool["num_threads"]) for pool in threadpool_info()}
    assert pools == {("openmp", cores), ("blas", cores)}
