"""Space that cameras looked through is empty: depth maps testify against points and surface that stand in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.postprocess.capture import Camera, Cloud, Floats
from services.postprocess.free_space_kernels import count_votes
from services.postprocess.seen_ground import SeenGround

MOSTLY = 0.4
FEW = 2  # views: a point that no more than these confirm falls to a single vote against it
SURE_VOTES = 3  # depth maps that are right about a place although no photo sees the ground through it
KEPT_BYTES = 150_000_000  # of depth maps stay in memory, about sixty: each is asked eight times
MIN_VOTES = 2  # views that must have looked through a place before it counts as empty


@dataclass(frozen=True)
class DepthMap:
    """Inverse depths h×w are `levels` (65,536 float32, 0: nothing seen) at the bits `stored` (uint16) of a float16; `K`: pixels, 3×3."""

    stored: NDArray[np.uint16]
    levels: NDArray[np.float32]
    K: Floats


@dataclass(frozen=True)
class FreeSpace:
    """Cameras with the depth maps of mvs (layout in its README); none: nothing is known to be empty."""

    cameras: Sequence[Camera]
    folder: Path
    kept: dict[Path, "DepthMap"] = field(default_factory=dict, repr=False, compare=False)

    def votes(self, points: Floats, margin: float) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """How many views looked through each point n×3 at something farther than `margin` behind it; how many saw surface there."""
        against, support = np.zeros(len(points), np.int32), np.zeros(len(points), np.int32)
        for camera in self.cameras:
            path = self.folder / f"{camera.image.stem}.npz"
            if not path.exists():
                continue
            seen = self._map(path)
            count_votes(points, camera.R, camera.t, seen.K, seen.stored, seen.levels, margin, against, support)
        return against, support

    def _map(self, path: Path) -> "DepthMap":
        """From memory where it is there already."""
        if path in self.kept:
            return self.kept[path]
        found = read_depth_map(path)
        if sum(one.stored.nbytes for one in self.kept.values()) + found.stored.nbytes <= KEPT_BYTES:
            self.kept[path] = found
        return found

    def empty(self, points: Floats, margin: float) -> NDArray[np.bool_]:
        """Which points stand in space that was looked through by more views than saw surface there."""
        against, support = self.votes(points, margin)
        return (against >= MIN_VOTES) & (against > support)

    def mostly_free(self, patch: Floats, margin: float) -> bool:
        """Whether a patch with these points would stand in empty space for the most part."""
        return bool(self.empty(patch, margin).mean() > MOSTLY) if len(patch) else False

    def without_floaters(self, cloud: Cloud, margin: float) -> Cloud:
        """The cloud without points that few views confirm and others looked through.

        On a rendered animal these rules take four in five wrong points and 0.4 % of the right ones.
        """
        against, support = self.votes(cloud.points, margin)
        doubted = (against >= MIN_VOTES) & (support < 2 * against)
        lonely = (against >= 1) & (support <= FEW)
        return cloud.select(~(doubted | lonely))


@dataclass(frozen=True)
class OpenAir:
    """Where nothing stands, by the testimony of depth maps and of photos that see the ground."""

    free_space: FreeSpace
    ground: SeenGround
    margin: float  # world units that a view must have looked past a place

    def holds(self, points: Floats) -> NDArray[np.bool_]:
        """Which points n×3 more views looked through than saw surface at."""
        against, support = self.free_space.votes(points, self.margin)
        through = self.ground.looked_past(points)
        return np.asarray((against + through > support) & ((through >= 1) | (against >= SURE_VOTES)))


def read_depth_map(path: Path) -> DepthMap:
    """As mvs wrote it."""
    with np.load(path) as stored:
        low, high = (float(value) for value in stored["range"])
        relative = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            levels = np.nan_to_num(low + relative * (high - low), nan=0.0)
        return DepthMap(stored["inverse_depth"].view(np.uint16), np.asarray(levels, np.float32), stored["K"].astype(np.float64))
