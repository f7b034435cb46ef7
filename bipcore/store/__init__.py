"""What is kept on disk: the run store, its checkpoints and journals, and how files are written.

Everything here is written whole or not at all. It may import `errors` only.
"""
