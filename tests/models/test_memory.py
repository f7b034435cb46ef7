"""What is free for more: on the CPU what the container allows, on GPUs what PyTorch can use."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bipcore.errors import InputError
from bipcore.models import memory
from bipcore.models.memory import check_free, free_memory
from tests.helpers.tiny import tiny_model

GIB = 2**30
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def host(monkeypatch):
    """A machine with 100 GiB free and no control group."""
    free = SimpleNamespace(available=100 * GIB)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(memory, "_left_in_groups", lambda: iter(()))
    return free


@pytest.mark.parametrize("need", [0, 2 * GIB, 3 * GIB])
def test_more_memory_than_is_free_is_refused(host, need):
    host.available = 2 * GIB
    if need <= host.available:
        check_free(tiny_model("llama"), need)
        return
    with pytest.raises(InputError, match=r"3\.0 GiB of memory .* 2\.0 GiB are free") as caught:
        check_free(tiny_model("llama"), need)
    assert "\n" not in str(caught.value)


def _group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def _left(tmp_path: Path, membership: str) -> list[int]:
    (tmp_path / "cgroup").write_text(membership)
    return list(memory._left_in_groups(tmp_path / "cgroup", tmp_path / "fs"))


def test_the_limit_of_a_container_counts_and_pages_of_files_do_not(tmp_path):
    used = {"memory__current": f"{7 * GIB}\n", "memory__stat": f"anon 1\ninactive_file {GIB}\n"}
    _group(tmp_path / "fs", memory__max=f"{8 * GIB}\n", **used)

    assert _left(tmp_path, "0::/\n") == [2 * GIB]
    assert _left(tmp_path, "0::/docker/beef\n") == [2 * GIB]  # as the host calls it


def test_every_group_above_counts_and_one_without_a_limit_does_not(tmp_path):
    stat = {"memory__stat": "inactive_file 0\n"}
    _group(tmp_path / "fs/a", memory__max=f"{4 * GIB}\n", memory__current=f"{GIB}\n", **stat)
    _group(tmp_path / "fs/a/b", memory__max="max\n", memory__current="0\n", **stat)

    assert _left(tmp_path, "0::/a/b\n") == [3 * GIB]


def test_the_first_version_has_a_tree_of_its_own_for_memory(tmp_path):
    _group(
        tmp_path / "fs/memory/x",
        memory__limit_in_bytes=f"{4 * GIB}\n",
        memory__usage_in_bytes=f"{3 * GIB}\n",
        memory__stat=f"total_inactive_file {GIB}\n",
    )

    assert _left(tmp_path, "4:cpu:/x\n5:memory,hugetlb:/x\n") == [2 * GIB]
    assert _left(tmp_path, "not a line\n") == []


def test_the_least_ofhost_and_groups_is_free(host, monkeypatch):
    monkeypatch.setattr(memory, "_left_in_groups", lambda: iter([3 * GIB, 5 * GIB]))
    assert free_memory(CPU) == 3 * GIB
    host.available = GIB
    assert free_memory(CPU) == GIB


def test_what_pytorch_holds_on_a_gpu_and_does_not_use_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * GIB)
    assert free_memory(GPU) == 21 * GIB


def test_every_gpu_has_to_have_its_share_free(monkeypatch):
    """Three quarters of the weights lie on the second, which has less."""
    devices = [torch.device("cuda:0"), torch.device("cuda:1")]
    weights = [
        SimpleNamespace(device=device, numel=lambda n=n: n, element_size=lambda: 2)
        for device, n in zip(devices, (100, 300), strict=True)
    ]
    model = SimpleNamespace(parameters=lambda: iter(weights), modules=lambda: iter(()))
    free = {devices[0]: 10 * GIB, devices[1]: 5 * GIB}
    monkeypatch.setattr(memory, "free_memory", free.__getitem__)

    check_free(model, 6 * GIB)
    with pytest.raises(InputError, match=r"6\.0 GiB of memory .* on cuda:1, and 5\.0 GiB are free"):
        check_free(model, 8 * GIB)
