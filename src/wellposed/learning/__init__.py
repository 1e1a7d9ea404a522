"""Priors learnt from measurements alone: rounds of sampling and training."""

from wellposed.learning.measurements import Measurement as Measurement
from wellposed.learning.rounds import RoundSettings as RoundSettings
from wellposed.learning.rounds import learn_from_measurements as learn_from_measurements
from wellposed.learning.start import stationary_start as stationary_start
