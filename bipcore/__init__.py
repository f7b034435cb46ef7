"""bipcore: LLM-BIP scores, structured pruning, and seeing what it did. One verb chain:

score -> plan -> apply -> evaluate
"""
