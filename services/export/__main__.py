"""Runs the export worker, or the stage by hand: `python -m services.export run FOLDER`."""

from shared.runtime.entrypoint import main

if __name__ == "__main__":
    main("services.export.stage:ExportStage")
