"""Runs that did not end: where one goes on, and a training that is finished and not proved."""
