"""A causal language model: finding and loading it, its sizes, its blocks, running and prompting it.

`families` is the only file that knows module names, `running` the only one that registers hooks.
It may import `errors`, `hub`, `store` and `data`.
"""
