"""`python -m services.sfm`: the worker; `python -m services.sfm run FOLDER`: the stage alone, by hand."""

from shared.runtime.entrypoint import main

if __name__ == "__main__":
    main("services.sfm.stage:SfmStage")
