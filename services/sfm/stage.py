"""Structure from motion: working images in, cameras and a sparse cloud out."""

from collections.abc import Mapping
from typing import ClassVar

from services.sfm.params import SfmParams
from shared.contracts.manifest import StageReport
from shared.runtime.workspace import Workspace


class SfmStage:
    """Places every photo that can be placed in one frame, and straightens it."""

    name: ClassVar[str] = "sfm"
    version: ClassVar[str] = "6"
    Params: ClassVar[type[SfmParams]] = SfmParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "ingest": ("photos.json", "photos/*"),
        "segmentation": ("masks.json", "masks/*"),
    }

    def run(self, workspace: Workspace, params: SfmParams) -> StageReport:
        """Raises PermanentError TOO_FEW_REGISTERED when too few photos can be placed."""
        from services.sfm.reconstruction import reconstruct  # native libraries are for the child process alone

        return reconstruct(workspace, params)
