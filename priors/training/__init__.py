"""Train a diffusion prior on images of one's own (`wellposed train`).

Crops, noise levels and noise are functions of the step and the crop's number alone. So a run that
was killed and started again ends with the same weights, and one spread over several processes
follows the same losses.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
