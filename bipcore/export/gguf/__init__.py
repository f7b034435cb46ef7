"""GGUF files, which llama.cpp runs, by the `gguf` package: one room of `export`.

What an architecture of llama.cpp can hold (`architectures`), how it is told of the model (`keys`,
`rope`, `tokens`), where the tensors lie (`tensors`), and the types they are written in (`kinds`).
It may import what `export` may; `gguf` itself is imported when a file is written or read.
"""
