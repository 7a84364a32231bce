"""What a run would cost, before it is paid for.

plan.py makes a plan, after targets.py has found the settings that a target asks for; memory.py estimates what it needs
of memory, which takes the model's own code; tables.py prints one plan and side_by_side.py several; course.py says what
happens over the run, also as a line of text, and figure.py draws it.
"""

from est_cli.planning.memory import PlannedMemory, memory_of
from est_cli.planning.plan import Plan, PlannedStage, make_plan
from est_cli.planning.tables import print_plan

__all__ = ["Plan", "PlannedMemory", "PlannedStage", "make_plan", "memory_of", "print_plan"]
