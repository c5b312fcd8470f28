"""Imported by the fork server before anything else, and by nobody else: a signal to the group must not end it.

Its children are born with the same handlers, so there is no moment in which such a signal kills a young worker.
"""

from shared.entry import ignore_group_signals

ignore_group_signals()
