"""How much memory a training run will take, before anything of it is allocated.

rehearsal = Rehearsal(empty, method, optimizer=..., average=...)   # builds it without numbers
plan = predict(rehearsal, run)                                     # bytes by kind, the peak
advice = cheaper(rehearsal, run, memory)                           # what to change, if anything
"""

from insitu.training.memory.limits import CONTEXT, require_room, room
from insitu.training.memory.plan import Advice, Plan, Run, cheaper, predict
from insitu.training.memory.rehearsal import Rehearsal

__all__ = [
    "CONTEXT",
    "Advice",
    "Plan",
    "Rehearsal",
    "Run",
    "cheaper",
    "predict",
    "require_room",
    "room",
]
