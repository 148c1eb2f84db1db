"""One step, of mvs or sfm, with more and more replicas.

MESHWORK_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m tests.benchmarks.scale [--stage mvs] [--photos 60] [--enlarged 3] [--real 60]
        [--replicas 1 2 4 8 16]
    computes a synthetic capture whole and shared, part by part (CPU seconds of one thread; the bytes must be the same), then runs the job
    * on 1 and 2 real workers of one thread each, with a capture of `--real` photos (0: not)
    * on stand-ins that wait `--stretch` times as long as each part computed, at `--replicas`; `--full-size`: with files as large
    captures and recordings in `--out` are used again
"""

import argparse
import os
import tempfile
from pathlib import Path

from loguru import logger

from tests.benchmarks.scale.job import Ran, run_job
from tests.benchmarks.scale.recording import Recorded, read, record, write
from tests.benchmarks.scale.replica import Waits
from tests.benchmarks.scale.schedule import Durations
from tests.benchmarks.scale.subjects import SUBJECTS, Subject
from tests.support.servers import rabbitmq


def captured(subject: Subject, folder: Path, photos: int, enlarged: int) -> Path:
    """A folder with what the stage reads; made once."""
    capture = folder / f"{subject.name}-{photos}-{enlarged}"
    if not capture.exists():
        subject.write(capture, photos, enlarged)
    return capture


def recording_of(subject: Subject, folder: Path, photos: int, enlarged: int) -> Path:
    """Its file."""
    return folder / f"recorded-{subject.name}-{photos}-{enlarged}.json"


def recorded_of(subject: Subject, folder: Path, photos: int, enlarged: int) -> Recorded:
    """Measured, or read where it was before."""
    path = recording_of(subject, folder, photos, enlarged)
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            write(record(subject, captured(subject, folder, photos, enlarged), Path(scratch)), path)
    return read(path)


def report_computing(recorded: Recorded, photos: int) -> None:
    """Whole against shared, and each round's share."""
    print(f"{photos} photos, one thread: whole {recorded.whole_s:.1f} CPU s, shared {recorded.shared_s:.1f}", end="")
    print(f" (× {recorded.shared_s / recorded.whole_s:.3f}), of which splitting {recorded.splitting_s:.1f}\n")
    print("| round | parts | CPU s | longest | read MB | written MB |\n|---|---|---|---|---|---|")
    for round in [*recorded.parts, ""]:
        work = [work for work in recorded.work if work.round == round and work.name != "split"]
        if work:
            longest, spent = max(w.cpu_seconds for w in work), sum(w.cpu_seconds for w in work)
            moved = sum(w.read_bytes for w in work) / 1e6, sum(sum(w.outputs.values()) for w in work) / 1e6
            print(f"| {round or 'join'} | {len(work)} | {spent:.1f} | {longest:.2f} | {moved[0]:.0f} | {moved[1]:.0f} |")


def report_replicas(title: str, work: Durations, ran: dict[int, Ran]) -> None:
    """Speed-up over all the compute, done one after the other; and what no schedule of these parts betters, as a share of what it took."""
    print(f"\n{title}: {work.work_s:.1f} s of compute; load average {os.getloadavg()[0]:.1f}\n")
    print(
        "| replicas | seconds | speed-up | at best, seconds | at best, speed-up | of the best | deliveries |\n|---|---|---|---|---|---|---|"
    )
    for count, one in ran.items():
        best = work.ideal_s(count)
        print(
            f"| {count} | {one.seconds:.1f} | {work.work_s / one.seconds:.2f} | {best:.1f} | {work.work_s / best:.2f}"
            f" | {best / one.seconds:.2f} | {one.deliveries} |",
            flush=True,
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--stage", choices=SUBJECTS, default="mvs")
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--enlarged", type=int, default=3, help="photos of 192 × 144 pixels times this")
    parser.add_argument("--real", type=int, default=60, help="photos of the job on real workers")
    parser.add_argument("--replicas", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--stretch", type=float, default=1.0)
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(".bench/scale"))
    options = parser.parse_args()
    logger.remove()  # a line for every part
    options.out.mkdir(parents=True, exist_ok=True)
    subject = SUBJECTS[options.stage]
    recorded = recorded_of(subject, options.out, options.photos, options.enlarged)
    report_computing(recorded, options.photos)
    with rabbitmq() as server:
        if options.real:
            capture = captured(subject, options.out, options.real, options.enlarged)
            real = {count: run_job(server, subject.name, capture, count) for count in (1, 2)}
            report_replicas(f"Real workers of one thread, {options.real} photos", real[1].compute, real)
        capture, stretch = captured(subject, options.out, options.photos, options.enlarged), options.stretch
        recording = recording_of(subject, options.out, options.photos, options.enlarged)
        waits = Waits(recorded=recording, stretch=stretch, full_size=options.full_size)
        waited = {count: run_job(server, subject.name, capture, count, waits) for count in options.replicas}
        if waited:
            report_replicas(f"Stand-ins, {options.photos} photos, waiting {stretch:g} times as long", recorded.durations(stretch), waited)


if __name__ == "__main__":
    main()
