"""Types of the names and packages that `__init__.py` loads when they are first used."""

from onebit import (
    common as common,
    data as data,
    errors as errors,
    evaluation as evaluation,
    export as export,
    fold as fold,
    integer as integer,
    language as language,
    layers as layers,
    models as models,
    modules as modules,
    native as native,
    nets as nets,
    optim as optim,
    packed as packed,
    quantizers as quantizers,
    recipe as recipe,
    report as report,
    runs as runs,
    runtime as runtime,
    train as train,
    trainer as trainer,
    verification as verification,
)
from onebit.common import __version__ as __version__
from onebit.data import Dataset as Dataset, load_dataset as load_dataset
from onebit.data.tokens import write_tokens as write_tokens
from onebit.evaluation.counts import summary as summary
from onebit.evaluation.modes import evaluate as evaluate
from onebit.export import export_net as export_net
from onebit.integer.nets import integer_net as integer_net
from onebit.language.model import load_language_model as load_language_model
from onebit.layers import (
    BinarizeReport as BinarizeReport,
    BinaryConv1d as BinaryConv1d,
    BinaryConv2d as BinaryConv2d,
    BinaryConvTranspose1d as BinaryConvTranspose1d,
    BinaryConvTranspose2d as BinaryConvTranspose2d,
    BinaryEmbedding as BinaryEmbedding,
    BinaryLinear as BinaryLinear,
    InputCoding as InputCoding,
    Normalize as Normalize,
    binarize_ as binarize_,
    binarize_from_config_ as binarize_from_config_,
    dense_ as dense_,
    describe_layers as describe_layers,
    quantizer_config as quantizer_config,
)
from onebit.models import create_model as create_model
from onebit.modules.adapters import adapt_packed as adapt_packed
from onebit.modules.packed_layers import packed_layers_ as packed_layers_
from onebit.modules.packed_module import PackedModule as PackedModule
from onebit.optim import clip_latents_ as clip_latents_, latent_groups as latent_groups
from onebit.packed import load as load, save as save
from onebit.quantizers import set_progress as set_progress, sign as sign
from onebit.runs.language import (
    export_gguf as export_gguf,
    load_gguf_ as load_gguf_,
    register_transformers as register_transformers,
)
from onebit.runtime import run as run
from onebit.train.check import check as check
from onebit.train.loop import fit as fit
from onebit.train.settings import Fit as Fit
from onebit.trainer import Trainer as Trainer
from onebit.verification.agreement import certify as certify, pack as pack, verify as verify

__all__: list[str]
