"""What sweeps found, for people: plots at a sweep's end (`plots`, `pareto`), and a page of one or several (`page`)."""
