__all__: list[str]

from .attending import MutualAttention as MutualAttention
from .attending import PromptToPrompt as PromptToPrompt
from .base import Code as Code
from .base import Inversion as Inversion
from .bdia import BDIA as BDIA
from .ddcm import DDCM as DDCM
from .ddim import DDIM as DDIM
from .direct import DirectInversion as DirectInversion
from .edict import EDICT as EDICT
from .edit_friendly import EditFriendly as EditFriendly
from .files import load as load
from .fixed_point import FixedPoint as FixedPoint
from .gradient import generate as generate
from .midpoint import Midpoint as Midpoint
from .rf import RFInversion as RFInversion
from .rival import RIVAL as RIVAL
from .tuned import NullText as NullText
from .tuned import PromptTuning as PromptTuning
from .whiteness import Whiteness as Whiteness
