"""Train a diffusion prior on images of one's own (`wellposed train`).

Crops, noise levels and noise are functions of the step and the crop's number alone. So a run that
was killed and started again ends with the same weights, and one spread over several processes
follows the same losses.
"""

from wellposed.priors.training.loop import train
from wellposed.priors.training.trainer import Trainer
from wellposed.training_settings import TrainingSettings

__all__ = ["Trainer", "TrainingSettings", "train"]
