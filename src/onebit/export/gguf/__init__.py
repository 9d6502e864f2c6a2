"""GGUF, the file format of llama.cpp: 1-bit language models as tensors of type Q1_0."""
