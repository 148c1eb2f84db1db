# Verbs of the project; `make help` lists them. CI runs the same ones.
