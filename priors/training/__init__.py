"""Training of priors on your own images (`wellposed train`).

Crops, noise levels and noise depend only on the step and the number of the crop. A resumed run
therefore ends with the same weights, and a run on several processes has the same losses.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
