"""Searching for the configuration that saves most within a budget."""

from haste_compiler.search.budget import BudgetError
from haste_compiler.search.result import ParetoPoint, SearchResult
from haste_compiler.search.search import search

__all__ = ["BudgetError", "ParetoPoint", "SearchResult", "search"]
