"""How the benchmarks measure: sides timed in turn, memory above what is loaded, and what an index of names takes."""

import ctypes
import gc
import importlib.metadata
import os
import platform
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import angel_trl
from angel_trl.trie import NameTrie

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Wall-clock seconds of a call, and what it returned."""
    synchronize(device)
    begin = time.perf_counter()
    result = run()
    synchronize(device)
    return time.perf_counter() - begin, result


def in_turn(
    sides: dict[str, Callable[[], Any]], repeats: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Time the sides one after the other, over and over: what slows the machine for a while then slows them all.

    Returns:
        The seconds of each side, a number a repeat, and what each side returned last.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results = {}
    for _ in range(repeats):
        for name, run in sides.items():
            taken, results[name] = seconds_of(run, device)
            seconds[name].append(taken)
    return seconds, results


def spread(values: list[float], scale: float = 1.0) -> dict[str, float]:
    """Median, least and greatest of some measurements, each times `scale`."""
    return {
        "median": float(np.median(values)) * scale,
        "min": min(values) * scale,
        "max": max(values) * scale,
    }


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """The ratio of two medians; its least and greatest are those of the repeats, each taken by itself."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": float(np.median(slow) / np.median(fast)), "min": min(each), "max": max(each)}


def peak_memory(run: Callable[[], Any], device: torch.device) -> int:
    """Bytes by which memory rises, at its highest, above where it stands before `run`: of the GPU, or of the process.

    For a process it takes Linux: `getrusage` cannot be used, because its peak starts at that of the parent process and
    goes on from the highest point of loading.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    if not _RESET.exists():
        raise SystemExit("Peak memory on CPU is read from /proc, which only Linux has. Use --device cuda, or Linux.")
    # Memory that loading has freed but the allocator kept would hide as much of the peak.
    ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text("5")
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def index_costs(trie: NameTrie, nested: Callable[[], dict], samples: int = 320) -> dict[str, dict[str, float]]:
    """What three indices of the same names take: ours, a nested dictionary, and `marisa-trie` where it is installed.

    Args:
        trie: ours; its bytes a node are those of its node arrays, those a name include the index from leaf to name.
        nested: builds the nested dictionary.
        samples: prefixes of names whose children are looked up, for the time a look-up takes.

    Returns:
        For each index `bytes`, `bytes_per_node`, `bytes_per_name` and `lookup_us`: microseconds to find what may
        follow a prefix (with ours from the node reached, which the search keeps, and for all prefixes in one call).
    """
    prefixes, nodes = _sample(trie, samples)
    tracemalloc.start()
    root = nested()
    dictionary_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    def walk() -> None:
        for prefix in prefixes:
            node = root
            for token in prefix:
                node = node[token]
            list(node)

    def costs(size: int, lookup: Callable[[], Any]) -> dict[str, float]:
        taken = min(seconds_of(lookup, torch.device("cpu"))[0] for _ in range(5))
        return {
            "bytes": size,
            "bytes_per_node": size / trie.num_nodes,
            "bytes_per_name": size / trie.num_names,
            "lookup_us": 1e6 * taken / len(prefixes),
        }

    ours = costs(trie.nbytes + trie.index_nbytes, lambda: trie.token(trie.expand(nodes)[1]))
    found = {
        "ours": ours | {"bytes_per_node": trie.nbytes / trie.num_nodes},
        "nested dictionary": costs(dictionary_bytes, walk),
    }
    try:
        from marisa_trie import BinaryTrie
    except ImportError:
        return found

    # Each token is four bytes, the most significant first, as there may be more than 65,536.
    def key(tokens: Sequence[int]) -> bytes:
        return np.array(tokens, dtype=">u4").tobytes()

    compact = BinaryTrie([key(tokens) for tokens, _ in names_of(root)])

    def keys() -> None:
        for prefix in prefixes:
            before = key(prefix)
            {name[len(before) : len(before) + 4] for name in compact.keys(before)}  # noqa: SIM118 (not a mapping)

    return found | {"marisa-trie": costs(len(compact.tobytes()), keys)}


def names_of(node: dict, before: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], int]]:
    """The names of a nested dictionary: tokens and name index."""
    for token, below in node.items():
        if isinstance(below, dict):
            yield from names_of(below, (*before, token))
        else:
            yield (*before, token), below


def _sample(trie: NameTrie, samples: int) -> tuple[list[list[int]], torch.Tensor]:
    """Prefixes of names, of one token and more, drawn with replacement, and the nodes they lead to."""
    drawn = np.random.default_rng(0)
    prefixes, nodes = [], []
    while len(nodes) < samples:
        node, prefix = torch.zeros(1, dtype=torch.int64), []
        stop = drawn.integers(1, 6)
        while len(prefix) < stop:
            _, children = trie.expand(node)
            child = children[drawn.integers(len(children))][None]
            if trie.is_leaf(child):
                break
            node, prefix = child, [*prefix, int(trie.token(child))]
        if prefix:
            prefixes.append(prefix)
            nodes.append(node)
    return prefixes, torch.cat(nodes)


def surroundings(device: torch.device) -> dict[str, Any]:
    """Hardware and versions, and how busy the machine was: numbers taken beside another job are worth little."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    packages = ("torch", "transformers", "numpy")
    return {
        "hardware": {
            "cpu": model or platform.processor() or platform.machine(),
            # Processors of one name differ in these by years.
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "load_average": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), "angel_trl": angel_trl.__version__}
        | {package: importlib.metadata.version(package) for package in packages},
    }
