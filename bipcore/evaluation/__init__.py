"""What a model is worth: perplexity, zero-shot tasks, reconstruction error, size and speed.

It may import `pruning` and what that may, and `specs`.
"""
