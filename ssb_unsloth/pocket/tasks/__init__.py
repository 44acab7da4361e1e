r"""Three more kinds of question for a tiny model: multiple choice (`choices`), programs (`programs`), and the
tutorial's own task (`slices`). Each has prompts and an answer form of its own, and is graded by another verifier than
that for mathematics.

As in the pocket, a question holds wordings that readers take for their opposite, each at a rate of its own; what is
learnt from the verdicts is which reading of which wording counts. Questions come from data files that
`python -m ssb_unsloth.pocket.tasks.data --out DIR` writes; `python -m ssb_unsloth.pocket.tasks.build --out DIR` builds
the model, which a recipe calls `pocket-tasks`.
"""
