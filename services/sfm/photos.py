"""The working images that cameras are wanted for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Photo:
    """One working image: upright, 8-bit sRGB. Sizes and focal length in its own pixels unless they say otherwise."""

    name: str  # of the photo as sent: the key in cameras.json
    path: Path
    width: int
    height: int
    original_width: int  # of the photo as sent, upright
    original_height: int
    focal_px: float | None = None
    camera_key: str | None = None
    mask: Path | None = None
    sharpness: float | None = None  # as ingest measured it: comparable within a job

    @property
    def file(self) -> str:
        """File name of the working image; unique, and so is its stem."""
        return self.path.name

    @property
    def longest_side(self) -> int:
        """In pixels."""
        return max(self.width, self.height)


def read_photos(ingest: Path, segmentation: Path) -> list[Photo]:
    """What ingest accepted, in the order sent, with the masks that segmentation made; its folder may be missing."""
    listed = json.loads((ingest / "photos.json").read_bytes())["photos"]
    masks = _masks(segmentation)
    return [
        Photo(
            name=item["name"],
            path=ingest / item["file"],
            width=item["width"],
            height=item["height"],
            original_width=item.get("original_width", item["width"]),
            original_height=item.get("original_height", item["height"]),
            focal_px=item.get("focal_px"),
            camera_key=item.get("camera_key"),
            mask=masks.get(item["name"]),
            sharpness=item.get("sharpness"),
        )
        for item in listed
    ]


@dataclass(frozen=True)
class StillCamera:
    """A camera that stood still, as segmentation found it. `mode`: how it looked for masks; `same_view`: nothing moved either."""

    mode: str
    same_view: bool = False


def still_camera(segmentation: Path) -> StillCamera | None:
    """What segmentation said of a camera that stood still, if it did; its folder may be missing."""
    listing = _listing(segmentation)
    return StillCamera(str(listing.get("mode", "none")), bool(listing.get("same_view"))) if listing.get("still_camera") else None


def _masks(segmentation: Path) -> dict[str, Path]:
    return {name: segmentation / mask["file"] for name, mask in _listing(segmentation).get("masks", {}).items()}


def _listing(segmentation: Path) -> dict[str, Any]:
    path = segmentation / "masks.json"
    return dict(json.loads(path.read_bytes())) if path.exists() else {}
