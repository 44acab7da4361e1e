"""Contestants on benchmarks: replies, verdicts, scores and differences with their intervals.

    run      one evaluation, from what is asked to what is written: the stage's, and that of `ssb evaluate MODEL`
    carried  what a file of replies depends on, and which of them serve again
    evaluate every contestant on every benchmark, every reply kept and graded
    scores   generations to numbers, over `stats` (intervals and tests)

May import: errors, seeds, io, records, prompts, recipe, verifier, backends, run.
May be imported by: report, pipeline, commands.
"""
