"""Winning back what pruning lost: LoRA on the pruned model, and its training.

It may import `pruning`, `evaluation` and what they may, and `specs`.
"""
