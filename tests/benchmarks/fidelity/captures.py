"""The captures that the benchmark reconstructs, by name; rendered once and kept below a folder, keyed by all that shapes them."""

import hashlib
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deploy.demo import capture as renderer
from deploy.demo import objects, shading_kernels
from deploy.demo.capture import Look, Orbit, Shooting
from tests.benchmarks.fidelity import bodies

KEPT_OUT = 4
_SOURCES = (renderer, objects, shading_kernels, bodies)


@dataclass(frozen=True)
class Capture:
    """A body, how it is photographed, and whether clutter stands around it. `cell`: metres of its mesh's grid, None: the body's own."""

    body: str
    shooting: Shooting = field(default_factory=lambda: Shooting(kept_out=KEPT_OUT))
    clutter: bool = False
    cell: float | None = None

    @property
    def key(self) -> str:
        """Changes with every parameter and with the code that renders."""
        code = b"".join(Path(str(module.__file__)).read_bytes() for module in _SOURCES)
        return hashlib.sha256(repr(self).encode() + code).hexdigest()[:12]

    def render(self, out: Path) -> None:
        """Writes photos/ and truth/ below `out`."""
        body = bodies.BODIES[self.body]
        surface = body(bodies.CELLS[self.body] if self.cell is None else self.cell)
        renderer.render(out, surface, self.shooting, bodies.clutter() if self.clutter else None)


_ANIMAL = Capture("animal")
_LARGE_GROUND = 2.4  # metres: a table that fills the photo


def _animal(**changes: Any) -> Capture:
    return replace(_ANIMAL, shooting=replace(_ANIMAL.shooting, **changes))


def _around(body: str, orbit: Orbit, **changes: Any) -> Capture:
    return Capture(body, replace(_ANIMAL.shooting, orbit=orbit, **changes))


_TURNTABLE = Orbit((0.0, 0.0, 0.31), elevations_deg=(28.0,), unsteadiness=0.0)  # the camera stands on a tripod, the disc turns about z
_FACADE = Orbit((0.0, 0.0, 0.9), 1.9, (-6.0, 8.0, 20.0), span_deg=80, start_deg=-40)

CAPTURES: dict[str, Capture] = {
    "animal": _ANIMAL,
    "statue": _around("statue", Orbit((0.0, 0.0, 0.46), 1.74)),
    "sharp": _around("blocks", Orbit((0.02, 0.0, 0.28), 1.62)),
    "facade": _around("facade", _FACADE, ground_radius=0.0),
    "thin": _around("vessel", Orbit((-0.02, 0.0, 0.45), 1.95)),
    "weak": _animal(look=Look(contrast=0.2)),
    "glossy": _animal(look=Look(gloss=0.7)),
    "animal-exposure": _animal(exposure_stops=0.1),
    "animal-clutter": replace(_animal(ground_radius=_LARGE_GROUND), clutter=True),
    "animal-turntable": _animal(ground_radius=_LARGE_GROUND, turntable_radius=0.62, orbit=_TURNTABLE),
    "animal-no-exif": _animal(exif=False),
    "animal-blurred": _animal(blurred=0.1),
    "animal-12": _animal(views=12),
    "animal-60": _animal(views=60),
    "animal-90": _animal(views=90, width=640),
}
MAIN = ("animal", "statue", "sharp", "facade")
SMALL = Capture("animal", replace(_ANIMAL.shooting, views=14, width=640), cell=0.008)


def rendered(name: str, cache: Path) -> Path:
    """The folder of a capture (photos/, truth/), rendered into `cache` unless it is there."""
    wanted = CAPTURES[name]
    folder = cache / f"{name}-{wanted.key}"
    if not folder.exists():
        unfinished = folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        wanted.render(unfinished)
        unfinished.rename(folder)
    return folder
