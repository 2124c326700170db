"""The built-in latent-variable models, and functions that work with any latent model."""

from pvae.densities.quantiser import Quantiser
from pvae.models.attend_infer_repeat import AIR
from pvae.models.autoencoder import Autoencoder
from pvae.models.build import MODELS, ModelSpec
from pvae.models.conditional import ConditionalVAE
from pvae.models.encode_data import codes_of
from pvae.models.forecast import Forecast
from pvae.models.found_objects import FoundObjects
from pvae.models.gaussian_mixture_vae import GMVAE
from pvae.models.imputation import Imputation, impute
from pvae.models.joint import JointVAE
from pvae.models.ladder import LadderVAE
from pvae.models.local_guide import LocalGuide
from pvae.models.masked import MaskedVAE
from pvae.models.multimodal import MultimodalVAE
from pvae.models.posterior_values import reconstruct
from pvae.models.semi_amortised import SemiAmortised
from pvae.models.semisupervised import SemiSupervisedVAE
from pvae.models.sequence import SequenceVAE
from pvae.models.topic_model import ProdLDA
from pvae.models.vae import VAE
from pvae.models.vector_quantised import VQVAE
from pvae.programs.base import LatentModel, Program, pair, program
from pvae.programs.binding import Programs, bind
from pvae.programs.parameter_groups import Groups, find_groups, named_parameters
from pvae.programs.parameter_scope import restore_store, scope, store_tensors
from pvae.programs.queries import encode, has_bernoulli_likelihood, sample, scores_bits

__all__ = [
    "AIR",
    "GMVAE",
    "MODELS",
    "VAE",
    "VQVAE",
    "Autoencoder",
    "ConditionalVAE",
    "Forecast",
    "FoundObjects",
    "Groups",
    "Imputation",
    "JointVAE",
    "LadderVAE",
    "LatentModel",
    "LocalGuide",
    "MaskedVAE",
    "ModelSpec",
    "MultimodalVAE",
    "ProdLDA",
    "Program",
    "Programs",
    "Quantiser",
    "SemiAmortised",
    "SemiSupervisedVAE",
    "SequenceVAE",
    "bind",
    "codes_of",
    "encode",
    "find_groups",
    "has_bernoulli_likelihood",
    "impute",
    "named_parameters",
    "pair",
    "program",
    "reconstruct",
    "restore_store",
    "sample",
    "scope",
    "scores_bits",
    "store_tensors",
]
