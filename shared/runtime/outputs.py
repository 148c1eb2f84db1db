"""A step's outputs on their way to the store: what the stage says is finished goes up beside its compute, the rest after it.

Nothing rests on the early ones: nobody reads an attempt before its manifest, which is written once everything is there, and an early upload
that fails is made up for at the end. A stage that changes what it said was finished has a defect: its attempt fails as if the child had
died, so that under a key there are never two contents, whatever arrives late.
"""

import asyncio
import mimetypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from loguru import logger

from shared.contracts.artifacts import ARTIFACTS
from shared.contracts.manifest import OutputFile
from shared.errors import ChildDied
from shared.runtime.inputs import all_or_first_error, is_inside
from shared.runtime.metrics import TRANSFERRED
from shared.runtime.patience import PatientStore, WaitedTooLong

_MANIFEST = "manifest.json"
_TYPES = {".ply": "application/octet-stream", ".npz": "application/octet-stream", ".glb": "model/gltf-binary"}
_CLOCK_TICK_S = 0.02  # the kernel's clock for files moves every 10 ms at the slowest: what is written later than this has another time

Stamp = tuple[int, int, int]  # inode, bytes, time of the last write in ns


class Outputs:
    """The files that a stage makes in a folder, each for the key that its name has.

    async with Outputs(store, folder, key_of, at_once=8, stage="mvs") as outputs:
        outputs.finished("depth/0001.npz")  # as often as the stage says so while it computes
        files = await outputs.upload()  # all of them, once it has ended
    """

    def __init__(self, store: PatientStore, folder: Path, key_of: Callable[[str], str], at_once: int, stage: str) -> None:
        self._store = store
        self._folder = folder
        self._key_of = key_of
        self._turns = asyncio.Semaphore(at_once)
        self._stage = stage
        self._computed = asyncio.Event()
        self._early: dict[str, asyncio.Task[None]] = {}
        self._stamps: dict[str, Stamp | None] = {}  # of what was finished early, before it was read
        self._stored: dict[str, OutputFile] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._early.values():
            task.cancel()
        await asyncio.gather(*self._early.values(), return_exceptions=True)

    def finished(self, name: str) -> None:
        """The stage says that it is done with this output."""
        if name not in self._early:
            self._early[name] = asyncio.create_task(self._upload_early(name))

    async def upload(self) -> tuple[OutputFile, ...]:
        """Every file, by name. Raises ChildDied where one is no more what it was when the stage said that it was finished."""
        self._computed.set()
        await asyncio.gather(*self._early.values())
        names = [path.relative_to(self._folder).as_posix() for path in _files_below(self._folder)]
        for name, stamp in self._stamps.items():
            if stamp is None or stamp != _stamp(self._folder, name):
                raise ChildDied(f"the stage changed {name!r} after it had said that it was finished")
        await all_or_first_error(self._upload(name) for name in names if name not in self._stored)
        return tuple(self._stored[name] for name in sorted(names))

    async def _upload_early(self, name: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOCK_TICK_S):
                await self._computed.wait()
        if self._computed.is_set():
            return
        stamp = self._stamps[name] = _stamp(self._folder, name)
        if stamp is None:
            return
        try:
            await self._upload(name)
        except (OSError, WaitedTooLong) as error:
            logger.info("{} goes up after the compute: {}", name, error)

    async def _upload(self, name: str) -> None:
        async with self._turns:
            stored = await self._store.upload(self._folder / name, self._key_of(name), content_type(name))
        self._stored[name] = OutputFile(name=name, bytes=stored.bytes, sha256=stored.sha256, content_type=content_type(name))
        TRANSFERRED.labels(self._stage, "upload").inc(stored.bytes)


def content_type(name: str) -> str:
    """The media type of an output."""
    if name in ARTIFACTS:
        return ARTIFACTS[name][1]
    return _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _files_below(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if folder / _MANIFEST in files:
        raise ValueError("a stage must not write outputs/manifest.json: the name is the runtime's")
    return files


def _stamp(folder: Path, name: str) -> Stamp | None:
    """What changes with a file's content; None for a name that is none of its outputs: the child is not trusted with it."""
    if not is_inside(name) or name == _MANIFEST:
        return None
    path = folder.resolve() / name
    if path.resolve() != path or not path.is_file():  # a link, or gone
        return None
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
