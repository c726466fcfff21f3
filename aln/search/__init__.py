"""Ray Tune and Optuna over a search space: trials, early stopping, baselines, and what came of them.

Import from its modules: a trial's process needs neither Optuna nor MLflow, whose imports take seconds.
"""
