"""The machine that is here or planned for: cards, drivers, versions, a model's geometry, the arithmetic of a plan.

What is asked before the packages are installed (`hardware`, `cards`, `environment`, `versions`) takes the standard
library alone. No model is loaded.

Imports `io`, `recipe` and the pocket's folder; `backends` and all above it import this.
"""
