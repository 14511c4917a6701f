"""Kernels and the references that define every op. Imports torch (and triton where present), nothing of llmc above it.

Shape letters, the one legend of this package:

    B  batch rows              H    query heads          E  experts
    T  query tokens            Hkv  key and value heads  K  experts per token
    S  cached (key) tokens     D    head_dim             N  state_size
    M  hidden_size             Dv   value head_dim       G  groups (of heads or of features)
    F  features of any tensor  R    rotary dims, or rows of a table
    V  vocab_size              C    chunk, channels

Between ops a tensor is flat, `[B, T, features]`; heads are split inside a kernel. Every reference takes keyword
arguments only, because the compiler lowers a node to a call by keyword.
"""
