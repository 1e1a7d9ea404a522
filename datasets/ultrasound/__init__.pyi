from .channels import (
    ChannelData as ChannelData,
)
from .channels import (
    delay_and_sum as delay_and_sum,
)
from .channels import (
    load_pymust as load_pymust,
)
from .metaimage import RFFrames as RFFrames
from .metaimage import load_rf_metaimage as load_rf_metaimage
from .metrics import (
    autocorrelation_width as autocorrelation_width,
)
from .metrics import (
    cnr as cnr,
)
from .metrics import (
    contrast as contrast,
)
from .metrics import (
    gcnr as gcnr,
)
from .metrics import (
    ks_statistic as ks_statistic,
)
from .metrics import (
    speckle_snr as speckle_snr,
)
from .processing import (
    b_mode as b_mode,
)
from .processing import (
    compand as compand,
)
from .processing import (
    envelope as envelope,
)
from .processing import (
    expand as expand,
)
from .processing import (
    log_compress as log_compress,
)
from .processing import (
    scan_convert as scan_convert,
)
from .recordings import (
    Recording as Recording,
)
from .recordings import (
    load_recording as load_recording,
)
from .recordings import (
    write_hazy_frames as write_hazy_frames,
)
from .scores import dehazing_scores as dehazing_scores
from .sector import Sector as Sector
from .simulation.simulator import EchoFrames as EchoFrames
from .simulation.simulator import simulate_echoes as simulate_echoes
from .simulation.training_frames import write_training_frames as write_training_frames
