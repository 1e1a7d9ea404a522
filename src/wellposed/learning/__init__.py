"""Learning from measurements alone: rounds of sampling, and diffusion with forward models."""

from wellposed.learning.forward_models import ForwardModelNetwork as ForwardModelNetwork
from wellposed.learning.forward_models import ForwardModelSampler as ForwardModelSampler
from wellposed.learning.forward_models import forward_model_losses as forward_model_losses
from wellposed.learning.measurements import Measurement as Measurement
from wellposed.learning.rounds import RoundSettings as RoundSettings
from wellposed.learning.rounds import learn_from_measurements as learn_from_measurements
from wellposed.learning.start import stationary_start as stationary_start
