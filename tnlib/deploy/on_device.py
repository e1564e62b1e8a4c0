"""Measure an ONNX network on the machine that it is for: one file to copy there, with Python, numpy and onnxruntime.

    python on_device.py network.onnx --images images.npz --memory-limit 24 --out records

One thread, on one processor core where the system allows to choose. What is measured: the first answer (to import numpy
and onnxruntime, to open the file, to compute once), later ones (median and quartiles), memory, and accuracy where the
images have labels. Files are in the system's cache if they were read before, so a first answer after power-on takes
longer. Energy is not measured. `--out` writes one record as `tnlib results` reads them. Derived in notebook 15.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import time
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STUDY = "on-device"
TOO_LARGE, WRONG = 3, 2  # exit codes: does not fit into the memory limit; a mistake in the call
MB = 1e6


class TooLargeError(Exception):
    """A network that the memory limit has no room for."""


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says, print the figures, and write the record. Returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        record = measure(given.model, given.images, batch=given.batch, repeat=given.repeat, limit=given.memory_limit)
        path = None if given.out is None else write(record, given.out)
    except TooLargeError as error:
        print(f"on_device: {error}", file=sys.stderr)
        return TOO_LARGE
    except (ValueError, OSError) as error:
        print(f"on_device: {error}", file=sys.stderr)
        return WRONG
    print(*(f"{name}: {value:.4g}" for name, value in record["metrics"].items()), sep="\n")
    if path is not None:
        print(f"record: {path}")
    return 0


def measure(
    model: Path, images: Path | None = None, *, batch: int = 1, repeat: int = 50, limit: float | None = None
) -> dict[str, Any]:
    """Open a network and run it; the process stays on one core.

    Args:
        model: ONNX file of a network with one input.
        images: .npy of samples, or .npz with `images` and, for accuracy, `labels`; random numbers without.
        batch: samples of a call.
        repeat: timed calls after the first two.
        limit: MB of address space that the network may take beside what Python, numpy and onnxruntime take already.

    Returns:
        A record: milliseconds end in `_ms`, memory in `_mb` (10^6 bytes). Names that start with `peak` are of resident
        memory, and `before` of the libraries alone.

    Raises:
        ValueError: files that are none, samples that the network does not take, a limit that this system cannot set.
        TooLargeError: the limit is too small for this network.
    """
    if batch < 1 or repeat < 2:
        raise ValueError("--batch is at least 1, and --repeat 2")
    if limit is not None and not 0 < limit < 1e6:
        raise ValueError(f"--memory-limit is in MB, got {limit:g}")
    if not model.is_file():
        raise ValueError(f"no file {model}")
    started = time.perf_counter()
    pinned = _alone()
    clock = time.perf_counter()
    import numpy.random  # noqa: F401 - all that is imported comes before the limit
    import onnxruntime as ort

    imported = time.perf_counter() - clock
    samples, labels = (None, None) if images is None else _read(images)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    size, before, before_peak = model.stat().st_size, _resident(), _peak()
    _limit(limit)
    try:
        clock = time.perf_counter()
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        opened = time.perf_counter() - clock
        (entry, *more) = session.get_inputs()
        if more:
            raise ValueError(f"it takes {len(more) + 1} inputs, expected one")
        x = _drawn(entry, batch) if samples is None else samples[:batch]
        times = _timed(lambda: session.run(None, {entry.name: x}), repeat + 2)
        right = None if labels is None else _right(session, entry.name, samples, labels, batch)
    except MemoryError:
        raise _no_room(model, limit) from None
    except Exception as error:  # whatever ONNX Runtime raises
        text = " ".join(str(error).split())
        if any(word in text for word in ("bad_alloc", "Failed to allocate", "Cannot allocate")):
            raise _no_room(model, limit) from None
        raise ValueError(f"{model.name} does not run: {text[:300]}") from None
    finally:
        _limit(None)
    low, median, high = statistics.quantiles(times[2:], n=4, method="inclusive")
    metrics = {"file_bytes": size, "import_ms": imported, "open_ms": opened, "first_call_ms": times[0]}
    metrics |= {"cold_ms": opened + times[0], "warm_ms": median, "warm_ms_low": low, "warm_ms_high": high}
    metrics = {
        name: 1e3 * value if name.endswith(("_ms", "_low", "_high")) else value for name, value in metrics.items()
    }
    memory = {"before_mb": before, "before_peak_mb": before_peak, "peak_mb": _peak()}
    metrics |= {name: value / MB for name, value in memory.items() if value is not None}
    if right is not None:
        metrics |= {"accuracy": sum(right) / len(right), "test_images": len(right)}
    told = {"model": model.name, "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(), "batch": len(x)}
    told |= {"repeat": repeat, "memory_limit_mb": limit, "pinned": pinned is not None, "images": images and images.name}
    return _record(metrics, told, time.perf_counter() - started, ort.__version__)


def write(record: dict[str, Any], folder: Path) -> Path:
    """Write a record into a folder, under the name that its content gives it; returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{STUDY}-{record['sha256'][:12]}.json"
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="on_device", description="Measure an ONNX network on this machine.")
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument("--images", type=Path, metavar="FILE", help=".npy, or .npz with `images` and maybe `labels`")
    parser.add_argument("--batch", type=int, default=1, help="samples of a call (1)")
    parser.add_argument("--repeat", type=int, default=50, help="timed calls (50)")
    parser.add_argument(
        "--memory-limit", type=float, metavar="MB", help="what the network may take, the libraries not counted"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the record is written")
    return parser


def _timed(call: Callable[[], object], number: int) -> list[float]:
    """Seconds of each of so many calls."""
    times = []
    for _ in range(number):
        clock = time.perf_counter()
        call()
        times.append(time.perf_counter() - clock)
    return times


def _alone() -> int | None:
    """One thread, and one core where the system allows it; which one."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def _limit(megabytes: float | None) -> None:
    """A limit of the address space, that much above what the process has now; None takes it away."""
    now = _status("VmSize")
    if now is not None:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if megabytes is None else now + int(megabytes * MB), most))
    elif megabytes is not None:
        raise ValueError("--memory-limit needs Linux")


def _no_room(model: Path, limit: float | None) -> TooLargeError:
    room = "this machine has" if limit is None else f"the limit of {limit:g} MB leaves"
    return TooLargeError(f"{model.name} needs more memory than {room}")


def _resident() -> int | None:
    """Resident memory now, in bytes."""
    return _status("VmRSS")


def _peak() -> int | None:
    """The largest resident memory so far, in bytes. On Linux not by getrusage, which starts with the parent's."""
    if (linux := _status("VmHWM")) is not None:
        return linux
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> int | None:
    """A line of the process's status in bytes; None where there is no such thing."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _read(path: Path) -> tuple[Any, Any]:
    """Samples, and labels or None. ValueError for what is no such file; nothing pickled is read."""
    import numpy as np

    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        found = np.load(path)
        if isinstance(found, np.ndarray):
            found = {"images": found}
        if "images" not in found:
            raise ValueError(f"it has {', '.join(found) or 'nothing'}, and no `images`")
        samples, labels = found["images"], found.get("labels")
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is no .npy or .npz of samples: {error}") from None
    if not samples.size:
        raise ValueError(f"{path.name} has no samples")
    if labels is not None and labels.shape != (len(samples),):
        raise ValueError(f"{path.name} has {len(samples)} samples and labels of shape {labels.shape}")
    return samples, labels


def _drawn(entry: Any, batch: int) -> Any:
    """Random samples of a network's input; sizes that it leaves open are one, but for the first."""
    import numpy as np

    shape = [size if isinstance(size, int) else 1 for size in entry.shape]
    shape = [batch, *shape[1:]] if not isinstance(entry.shape[0], int) else shape
    kind = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(double)": np.float64}.get(entry.type)
    if kind is None:
        raise ValueError(f"inputs of type {entry.type} need --images")
    return np.random.default_rng(0).integers(0, 256, shape).astype(kind)


def _right(session: Any, name: str, samples: Any, labels: Any, batch: int) -> list[bool]:
    found: list[bool] = []
    for at in range(0, len(samples), batch):
        answer = session.run(None, {name: samples[at : at + batch]})[0]
        found += (answer.argmax(1) == labels[at : at + batch]).tolist()
    return found


def _record(metrics: dict[str, Any], told: dict[str, Any], seconds: float, version: str) -> dict[str, Any]:
    """What was measured, as a record of the workbook: sealed with the SHA-256 of all but the seal."""
    import numpy as np

    script = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    content = {
        "schema": 2,
        "study": STUDY,
        "source": "on_device.py",
        "parameters": told,
        "seed": None,
        "metrics": metrics,
        "seconds": round(seconds, 3),
        "run": None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": "unknown",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "onnxruntime": version,
            "on_device": script[:16],
        },
        "machine": {
            "cpu": _processor(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "threads": 1,
            "device": "cpu",
        },
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _processor() -> str:
    """The processor's name; of a Raspberry Pi the board's, which says more."""
    board, info = Path("/proc/device-tree/model"), Path("/proc/cpuinfo")
    if board.is_file():
        return board.read_text().strip("\0\n ")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


if __name__ == "__main__":
    sys.exit(main())
