"""`est-train -m` and `est-eval -m`: many jobs from one command line, each in a process and a folder of its own.

program.py says what a command that is swept must tell, trainings.py and evaluations.py tell it of the two; nothing else
here knows what its jobs do. The way of a sweep: command.py (whole), overrides.py, jobs.py, run_job.py (or launcher.py,
search.py), results.py. plans.py is `est-plan -m`, which runs no jobs.
"""
