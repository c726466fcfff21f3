"""Studies: a question put to several sweeps, one after the other.

    question: Do coefficients found at one depth serve at others?
    base: digits.yaml                    # the sweep that all of them start from
    sweep: {run: {epochs: 12}}           # and what they all change in it
    stages:
      search:
        space: [../search_spaces/information.yaml, ../search_spaces/mirror.yaml]     # a sweep each
        sweep: {trials: 16, baselines: []}
      transfer:
        from: search                     # the best point of each of its sweeps, unchanged
        for_each: {run.model: [resnet8, resnet20]}                                   # a sweep each
        sweep: {seeds: 3}
    answer: {stage: transfer, measure: accuracy}

Files are looked for beside the study's own. Each sweep is one that `aln.sweep` could have run: it has its folder, its
journal and its runs in MLflow, and is resumed like any other.
"""
