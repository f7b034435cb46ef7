"""Where text comes from: named sets and files, calibration sets, the rows of zero-shot tasks.

It may import `errors`, `hub` and `store`.
"""
