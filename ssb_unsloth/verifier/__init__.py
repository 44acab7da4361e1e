"""Is a reply's answer the gold answer? Verdicts, and which wrong answers are the same.

    protocol      what a verifier is to all that ask one     verifiers  the table of names, and the one door
    boxed         what most share: the last box is the answer, or what stands in the recipe's answer form (`forms`)
    mathematical  numbers, formulas, sets, words, over `equality` (when two are the same), `answers` (how one is read),
                  `replies` (where it is), `spelling`, `units` and `judge`, which alone asks Math-Verify
    choice, exact, numeric  letters and texts of options, one text (`plain`), numbers within a tolerance
    code          programs and their tests, over `sandbox` (a pool), `runner` (a process of it), `exchange` (what
                  crosses between a program and its tests) and `confine` (what holds both)
    foreign       a user's own, in a process of its own

A new verifier is a module here and its row in the table. `recipe` reads the table, to refuse a name that there is not;
the rooms above import `protocol` and `verifiers`, and of `replies` what parts thoughts from the answer.

May import: errors, io, prompts.
May be imported by: recipe, backends, data, run, method, training, evaluation, report, commands.
"""
