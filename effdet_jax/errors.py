"""The base of every error that a user can cause and mend."""


class UserError(Exception):
    """Its message says all a user needs: what, where, the numbers, and what to type next.

    The commands print the message and end with status 2, without a traceback. A subclass lives in
    the room that raises it.
    """
