"""The tables and figures of the LLM-BIP paper, made again: what each is, what it takes, its rows.

It may import `sweep` and what `studies` may.
"""
