"""Writing a model as a folder that others can load: one file a format, and the model card.

It may import `recovery`, `evaluation`, `pruning` and what they may.
"""
