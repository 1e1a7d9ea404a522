from .loop import train as train
from .settings import TrainingSettings as TrainingSettings
from .trainer import Trainer as Trainer
from .unrolled_settings import UnrolledSettings as UnrolledSettings
