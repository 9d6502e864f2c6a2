"""The verbs in the order of their use, with descriptions. Imports nothing, for a fast `onebit --help`."""

from __future__ import annotations

VERBS = {
    "train": "train a recipe into a run folder, or continue with --resume",
    "evaluate": "accuracy in a stated test mode: latent, binary, mean, sample, ensemble:N, packed; perplexity",
    "inspect": "is it really binary? ranges, counts and histograms of any weight file",
    "summary": "what is binary or real and why; bits, bytes and multiply-adds per layer",
    "verify": "the whole proof, from latent weights to the packed net",
    "pack": "fold and pack to one bit per weight, with a certificate",
    "predict": "classify images with a packed net; needs no torch",
    "export": "write a trained net for other software",
    "generate": "continue a text with a 1-bit language model (GGUF); needs no torch",
    "chat": "talk with a 1-bit language model (GGUF)",
    "report": "curves, histograms and a comparison of runs",
    "bench": "the speed of a packed net or a language model on this machine",
    "list": "nets, recipes, models, quantizers, optimizers, losses, schedules, methods, datasets, exports",
    "data": "fetch and check a data set",
    "completion": "a script for completion in bash, zsh or fish",
}
