"""Errors of floor 2.

SearchError
├── RequestRejected   what is asked cannot be searched: unknown names, bounds
├── StateRejected     no search state of this version, or one that does not fit what it is used with
└── BuildFailed       one genome has no valid model: recorded in its trial, never the end of a search
"""

from __future__ import annotations


class SearchError(Exception):
    """Root of floor 2's errors."""


class RequestRejected(SearchError, ValueError):
    """The request names something unknown, or a value outside its bounds.

    Also a `ValueError`, so that a check made while pydantic reads a request is reported with the field.
    """


class StateRejected(SearchError):
    """The state cannot be read, or is used with what does not belong to it: scorer, phase, measurements."""


class BuildFailed(SearchError):
    """This genome's model could not be made, or failed its numeric check. A retry would fail alike."""
