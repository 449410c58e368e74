"""``edge-agent bench``: the user's own configuration, run for a while, and where each millisecond and each frame went.

``measuring`` runs the daemon's agent and counts; ``judging`` says what the limit is; ``report`` is what is told of it, as text
and JSON; ``picture`` draws it; ``cpu`` reads what each thread used.
"""
