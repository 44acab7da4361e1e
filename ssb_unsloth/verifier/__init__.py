"""Is a reply's answer the gold answer? Verdicts, and which wrong answers are the same.

    protocol      what a verifier is to all that ask one     verifiers  the table of names, and the one door
    boxed         what most share: the last box is the answer
    mathematical  numbers, formulas, sets, words, over `equality` (when two are the same), `answers` (how one is read),
                  `replies` (where it is), `spelling`, `units` and `judge`, which alone asks Math-Verify

A new verifier is a module here and its row in the table. `recipe` reads the table, to refuse a name that there is not;
the rooms above import `protocol` and `verifiers`, and no more.

May import: errors.
May be imported by: recipe, backends, data, run, method, training, evaluation, commands.
"""
