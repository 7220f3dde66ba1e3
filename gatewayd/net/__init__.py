"""Floor 2: the only room that touches Twisted's transports and reactors from inside.

Everything here relies on private names of Twisted and is tested on its oldest and newest releases.
"""
