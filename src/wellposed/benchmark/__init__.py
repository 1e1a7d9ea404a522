"""Frozen tasks, on which solvers are compared or tuned: cards, problems, scores and recipes."""

from wellposed.benchmark.card import Card as Card
from wellposed.benchmark.card import card_names as card_names
from wellposed.benchmark.card import read_card as read_card
from wellposed.benchmark.instance import Instance as Instance
from wellposed.benchmark.problems import instances as instances
from wellposed.benchmark.ranges import Span as Span
from wellposed.benchmark.ranges import Values as Values
from wellposed.benchmark.recipe import Recipe as Recipe
from wellposed.benchmark.record import Record as Record
from wellposed.benchmark.record import measured as measured
from wellposed.benchmark.tuning import tune as tune
