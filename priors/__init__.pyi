from .adapters.autoencoder import Codec as Codec
from .adapters.latent import Latent as Latent
from .adapters.patchwise import Patchwise as Patchwise
from .adapters.patchwise import tiled as tiled
from .adapters.product import Product as Product
from .adapters.rescheduled import (
    DenoiserPrior as DenoiserPrior,
)
from .adapters.rescheduled import (
    Given as Given,
)
from .adapters.rescheduled import (
    Rescheduled as Rescheduled,
)
from .adapters.slicewise import Slicewise as Slicewise
from .analytic import (
    Diagonal as Diagonal,
)
from .analytic import (
    Full as Full,
)
from .analytic import (
    GaussianMixturePrior as GaussianMixturePrior,
)
from .analytic import (
    GaussianPrior as GaussianPrior,
)
from .analytic import (
    Stationary as Stationary,
)
from .checkpoints.diffusers import DiffusersPrior as DiffusersPrior
from .network import NetworkPrior as NetworkPrior
from .prior import Prior as Prior
from .processes import (
    MeanReverting as MeanReverting,
)
from .processes import (
    rddm as rddm,
)
from .processes import (
    rddm_from_ddim as rddm_from_ddim,
)
from .processes import (
    resshift as resshift,
)
from .proximal import (
    NuclearNorm as NuclearNorm,
)
from .proximal import (
    Proximal as Proximal,
)
from .proximal import (
    TotalVariation as TotalVariation,
)
from .restorer import Degraded as Degraded
from .restorer import Restorer as Restorer
from .schedule import VE as VE
from .schedule import Flow as Flow
from .schedule import Schedule as Schedule
from .schedule import Tabulated as Tabulated
from .stored.registry import available as available
from .stored.registry import load as load
from .stored.restorers import (
    available_restorers as available_restorers,
)
from .stored.restorers import (
    load_restorer as load_restorer,
)
