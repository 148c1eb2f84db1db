"""How the photos of a job are shared among replicas: in batches, where a network looks at each photo alone.

`turntable` and `auto` compare all photos with each other, in less time than it takes to share them.
"""

import json
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from services.segmentation.params import SegmentationParams
from shared.batches import batches_of
from shared.runtime.stage import Part
from shared.runtime.workspace import Workspace

ROUND = "photos"
PHOTOS_PER_PART = 12  # each part loads the network once
LEAST_PHOTOS = 24

Photo = dict[str, Any]  # of ingest's photos.json


def photos_of(workspace: Workspace) -> list[Photo]:
    """As ingest lists them."""
    photos: list[Photo] = json.loads((workspace.inputs("ingest") / "photos.json").read_text())["photos"]
    return photos


def parts_of(photos: Sequence[Photo], params: SegmentationParams) -> tuple[Part, ...]:
    """One part for each batch; none where that does not pay."""
    if params.mode != "onnx" or len(photos) < LEAST_PHOTOS:
        return ()
    return tuple(
        Part(name, float(len(batch)), {"ingest": ("photos.json", *(escape(photo["file"]) for photo in batch))})
        for name, batch in batches(photos).items()
    )


def batches(photos: Sequence[Photo]) -> dict[str, Sequence[Photo]]:
    """The photos of each part, by its name, in their order."""
    return {f"photos-{k:03d}": batch for k, batch in enumerate(batches_of(photos, PHOTOS_PER_PART))}


def taken_over(workspace: Workspace, part: str) -> dict[str, Any]:
    """Moves a part's masks into the outputs; what it found."""
    made = workspace.part(ROUND, part)
    (workspace.outputs / "masks").mkdir(exist_ok=True)
    for mask in sorted(made.glob("masks/*")):
        mask.rename(workspace.outputs / "masks" / mask.name)
    return dict(json.loads((made / "found.json").read_text()))


def hand_over(outputs: Path, found: dict[str, Any]) -> None:
    """What a part found, beside its masks."""
    (outputs / "found.json").write_text(json.dumps(found))
