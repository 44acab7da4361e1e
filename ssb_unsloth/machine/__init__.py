"""The machine that is here or planned for: cards, drivers, versions, a model's geometry, the arithmetic of a plan.

What is asked before the packages are installed (`hardware`, `cards`, `environment`, `versions`) takes the standard
library alone. No model is loaded.

May import: errors, published, io, recipe, pocket.
May be imported by: backends, training, pipeline, commands, cli.
"""
