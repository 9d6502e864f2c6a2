"""Run language models with one-bit weights: GGUF files, without torch."""

from __future__ import annotations

from onebit.language.model import LanguageModel as LanguageModel, load_language_model as load_language_model
from onebit.language.sampling import Sampling as Sampling

__all__ = ["LanguageModel", "Sampling", "load_language_model"]
