"""Structure from motion: working images in, cameras and a sparse cloud out."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel

from services.sfm.params import SfmParams
from shared.contracts.manifest import StageReport
from shared.runtime.stage import Part
from shared.runtime.workspace import Workspace

LEAST_PHOTOS = 32  # to be shared: fewer take half a minute on two cores, and one replica would pay for the rounds


class SfmStage:
    """Places every photo that can be placed in one frame, and straightens it."""

    name: ClassVar[str] = "sfm"
    version: ClassVar[str] = "6"
    Params: ClassVar[type[BaseModel]] = SfmParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "ingest": ("photos.json", "photos/*"),
        "segmentation": ("masks.json", "masks/*"),
    }
    rounds: ClassVar[tuple[str, ...]] = ("features", "pairs", "matching")
    split_needs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "ingest": ("photos.json",),
        "segmentation": ("masks.json",),
        "parts/pairs": ("pairs.npy",),
    }
    join_needs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "ingest": ("photos.json", "photos/*"),
        "segmentation": ("masks.json", "masks/*"),
        "parts/features": ("keypoints_*",),
        "parts/pairs": ("pairs.npy",),
        "parts/matching": ("matches.npz",),
    }
    least_inputs: ClassVar[tuple[str, int]] = ("ingest/photos/*", LEAST_PHOTOS)

    def run(self, workspace: Workspace, params: SfmParams) -> StageReport:
        """Raises PermanentError TOO_FEW_REGISTERED when too few photos can be placed."""
        from services.sfm.reconstruction import reconstruct  # native libraries are for the child process alone

        return reconstruct(workspace, params)

    def split(self, workspace: Workspace, params: SfmParams, round: str) -> tuple[Part, ...]:
        """Batches of photos, then of pairs (partition.py); none for few photos."""
        from services.sfm.partition import parts_of

        return parts_of(workspace, params, round)

    def run_part(self, workspace: Workspace, params: SfmParams, round: str, part: str) -> None:
        """Writes what later rounds read of these photos or pairs (part_work.py)."""
        from services.sfm.part_work import compute_part

        compute_part(workspace, params, round, part)

    def join(self, workspace: Workspace, params: SfmParams) -> StageReport:
        """Writes what `run` writes, byte for byte. Raises as it does."""
        from services.sfm.part_work import join_parts

        return join_parts(workspace, params)
