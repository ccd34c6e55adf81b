"""What can be wrong with data, said to the user in one line."""


class DataError(Exception):
    """Data that is missing or unusable: the message says what, where, and what would be right."""
