"""Many results at once: sweeps over criteria and sparsities, and the tables of the paper.

It may import `pipeline` and what that may.
"""
