"""Runs the postprocess worker, or the stage by hand: `python -m services.postprocess run FOLDER`."""

from shared.runtime.entrypoint import main

if __name__ == "__main__":
    main("services.postprocess.stage:PostprocessStage")
