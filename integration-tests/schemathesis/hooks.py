"""Gives the generator the ids of runs, jobs and sessions that are there, so that not every request ends at a 404."""
import os
import random

import schemathesis

RUNS = os.environ["RIG_RUNS"].split(",")
JOBS = os.environ["RIG_JOBS"].split(",")
SESSIONS = os.environ["RIG_SESSIONS"].split(",")


def known(path):
    if path.startswith("/sessions/"):
        return SESSIONS
    return JOBS if path.startswith("/jobs/") else RUNS


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    # Half of them: unknown and malformed ids have to be answered well too.
    if path_parameters and "id" in path_parameters and random.random() < 0.5:
        path_parameters["id"] = random.choice(known(context.operation.path))
    return path_parameters
