"""Run language models with one-bit weights: GGUF files, without torch."""

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy

if TYPE_CHECKING:
    from onebit.language.model import LanguageModel as LanguageModel, load_language_model as load_language_model
    from onebit.language.sampling import Sampling as Sampling

__getattr__, __dir__, _ = lazy(__name__, {"model": "LanguageModel load_language_model", "sampling": "Sampling"})
