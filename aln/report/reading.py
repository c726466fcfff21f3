"""What each part of a report is called, and how to read it."""

READING = {
    "pareto": (
        "Pareto front",
        "Every trial that ran to the end, by two of the sweep's objectives. No other trial beats those of the "
        "front in one objective without losing in another.",
    ),
    "history": (
        "Optimisation history",
        "The objective trial by trial, and the best so far. A line that still rises at its end asks for more "
        "trials. Trials that were stopped early stand at the value they had by then.",
    ),
    "importance": (
        "Importance of each coefficient",
        "PED-ANOVA: the share of each coefficient in what tells the best tenth of the trials from the rest. From "
        "few trials it is a hint, no measurement. Interactions between coefficients are not in it.",
    ),
    "slices": (
        "Objective against each coefficient",
        "Each coefficient over its whole range; lines are the baselines. A best trial at the edge of a range asks"
        " for a wider one. The sampler looks where it is good, so that empty places are untried, not bad.",
    ),
    "contours": (
        "Pairs of coefficients",
        "The objective over pairs of the most important coefficients, interpolated between the trials that ran to"
        " the end (dots). Trust it near dots alone.",
    ),
    "parallel": (
        "Parallel coordinates",
        "A line for each trial that ran to the end, darker where the objective is better; with several objectives, by "
        "how many fronts of others lie before it. A narrow bundle of dark lines on an axis is where its coefficient "
        "works.",
    ),
    "curves": (
        "Early stopping",
        "Validation accuracy epoch by epoch. If curves of stopped trials were still overtaking others, a longer "
        "grace would be fairer. Click names in the legend to hide and show.",
    ),
    "diverged": (
        "Where training diverges",
        "Share of trials whose loss or weights stopped being finite, in each part of a range, with 95 % intervals"
        " (Wilson). How little of the space trains is how sensitive a rule is to its coefficients.",
    ),
    "layers": (
        "Alignment layer by layer",
        "Angles in degrees over the epochs, from input (top) to output. 0 is backprop, 90 is chance.",
    ),
}
