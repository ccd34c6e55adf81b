"""Errors about data, shown to the user in one line."""


class DataError(Exception):
    """Missing or unusable data. The message says what is wrong, where, and how to fix it."""
