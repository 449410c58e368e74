"""``edge-agent bench``: the user's own configuration, run for a while, and where each millisecond and each frame went.

``measuring`` runs the daemon's agent; ``window`` counts beside it, and ``cpu`` what its threads use; ``gathering`` makes a
``report`` of that, as text and JSON; ``judging`` says what the limit is, and ``advice`` what to do about it; ``picture`` draws it.
"""
