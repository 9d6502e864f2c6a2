"""Types of the names and packages that `__init__.py` loads when they are first used."""

from onebit import common as common
from onebit import data as data
from onebit import errors as errors
from onebit import evaluation as evaluation
from onebit import export as export
from onebit import fold as fold
from onebit import layers as layers
from onebit import models as models
from onebit import native as native
from onebit import optim as optim
from onebit import packed as packed
from onebit import quantizers as quantizers
from onebit import recipe as recipe
from onebit import report as report
from onebit import runs as runs
from onebit import runtime as runtime
from onebit import train as train
from onebit import trainer as trainer
from onebit import verification as verification
from onebit._version import __version__ as __version__
from onebit.data import Dataset as Dataset
from onebit.data import load_dataset as load_dataset
from onebit.evaluation.counts import summary as summary
from onebit.evaluation.modes import evaluate as evaluate
from onebit.fold import pack as pack
from onebit.fold.packed_layers import packed_layers_ as packed_layers_
from onebit.layers import BinaryLinear as BinaryLinear
from onebit.layers import InputCoding as InputCoding
from onebit.layers import binarize_ as binarize_
from onebit.models import create_model as create_model
from onebit.optim import clip_latents_ as clip_latents_
from onebit.optim import latent_groups as latent_groups
from onebit.packed import load as load
from onebit.packed import save as save
from onebit.quantizers import sign as sign
from onebit.runtime.torch_module import PackedModule as PackedModule
from onebit.train.loop import fit as fit
from onebit.trainer import Trainer as Trainer
from onebit.verification.agreement import certify as certify
from onebit.verification.agreement import verify as verify

__all__: list[str]
