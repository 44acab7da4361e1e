"""A finished run as people read it: report.md and report.json, their tables and figures, worked examples, tokens.html.

Everything is made from what the other stages left in their folders; no model is loaded.

May import: published, io, records, prompts, recipe, verifier, run, training, evaluation.
May be imported by: pipeline, commands.
"""
