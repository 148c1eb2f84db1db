"""What a stage is: a function from a local folder and typed params to a report."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from shared.contracts.manifest import StageReport
from shared.runtime.workspace import Workspace


class Stage(Protocol):
    """A step of a reconstruction. Knows no broker and no store."""

    name: ClassVar[str]
    version: ClassVar[str]  # bump when outputs change: it is part of the digest
    Params: ClassVar[type[BaseModel]]  # services/<stage>/params.py
    # stage -> glob patterns of its outputs that this one reads; "images" (uploads) as a stage of its own.
    # A stage that the pipeline does not have is skipped.
    needs: ClassVar[Mapping[str, tuple[str, ...]]]

    def run(self, workspace: Workspace, params: Any) -> StageReport:
        """Reads `workspace.inputs`, writes `workspace.outputs`. Raises PermanentError or TransientError."""
