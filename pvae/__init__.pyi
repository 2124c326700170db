# The public names of pvae, in one list: `__init__.py` reads it to load each name at its first use, type checkers read
# it unchanged.
from . import batch as batch
from . import callbacks as callbacks
from . import comparison as comparison
from . import data as data
from . import densities as densities
from . import em as em
from . import errors as errors
from . import evaluate as evaluate
from . import linter as linter
from . import models as models
from . import names as names
from . import networks as networks
from . import objectives as objectives
from . import plots as plots
from . import programs as programs
from . import report as report
from . import train as train
from . import weights as weights
from .batch import (
    Batch as Batch,
)
from .comparison import (
    compare as compare,
)
from .data import (
    Splits as Splits,
    load_data as load_data,
)
from .densities import (
    Bernoulli as Bernoulli,
    Categorical as Categorical,
    ContinuousBernoulli as ContinuousBernoulli,
    DiagonalGaussian as DiagonalGaussian,
    DiscretisedLogistic as DiscretisedLogistic,
    FlowPosterior as FlowPosterior,
    FlowPrior as FlowPrior,
    FullGaussian as FullGaussian,
    Gaussian as Gaussian,
    HouseholderPosterior as HouseholderPosterior,
    MixturePosterior as MixturePosterior,
    MixturePrior as MixturePrior,
    NegativeBinomial as NegativeBinomial,
    Poisson as Poisson,
    StandardNormal as StandardNormal,
    VampPrior as VampPrior,
)
from .densities.quantiser import (
    Quantiser as Quantiser,
)
from .em import (
    GaussianMixture as GaussianMixture,
)
from .errors import (
    DivergenceError as DivergenceError,
    InputError as InputError,
)
from .evaluate import (
    Estimate as Estimate,
)
from .linter import (
    check as check,
)
from .models import (
    AIR as AIR,
    Autoencoder as Autoencoder,
    ConditionalVAE as ConditionalVAE,
    GMVAE as GMVAE,
    JointVAE as JointVAE,
    LadderVAE as LadderVAE,
    LocalGuide as LocalGuide,
    MaskedVAE as MaskedVAE,
    ModelSpec as ModelSpec,
    MultimodalVAE as MultimodalVAE,
    ProdLDA as ProdLDA,
    SemiAmortised as SemiAmortised,
    SemiSupervisedVAE as SemiSupervisedVAE,
    SequenceVAE as SequenceVAE,
    VAE as VAE,
    VQVAE as VQVAE,
)
from .networks import (
    ConvDecoder as ConvDecoder,
    ConvEncoder as ConvEncoder,
    GatedMLP as GatedMLP,
    MLP as MLP,
)
from .objectives import (
    AAE as AAE,
    ALI as ALI,
    Alternate as Alternate,
    Beta as Beta,
    CIWAE as CIWAE,
    Capacity as Capacity,
    Constrained as Constrained,
    DReG as DReG,
    Dirac as Dirac,
    FactorVAE as FactorVAE,
    FreeBits as FreeBits,
    GAN as GAN,
    IWAE as IWAE,
    InfoMMD as InfoMMD,
    JointCapacity as JointCapacity,
    LogVariance as LogVariance,
    MIWAE as MIWAE,
    Marginal as Marginal,
    Objective as Objective,
    PIWAE as PIWAE,
    RAE as RAE,
    Renyi as Renyi,
    ScoreFunction as ScoreFunction,
    SemiSupervised as SemiSupervised,
    StickingTheLanding as StickingTheLanding,
    StratifiedIWAE as StratifiedIWAE,
    SubsampledELBO as SubsampledELBO,
    Terms as Terms,
    Thermodynamic as Thermodynamic,
    TotalCorrelation as TotalCorrelation,
    VAEGAN as VAEGAN,
    VIMCO as VIMCO,
    VarianceRegularised as VarianceRegularised,
    VectorQuantised as VectorQuantised,
    WAE as WAE,
    WakeSleep as WakeSleep,
    WeightsObjective as WeightsObjective,
)
from .programs import (
    LatentModel as LatentModel,
    pair as pair,
    program as program,
)
from .train import (
    Run as Run,
    fit as fit,
    fit_prior as fit_prior,
    open_run as open_run,
)
from .weights import (
    LogWeights as LogWeights,
    log_weights as log_weights,
)

__version__: str
