"""What sweeps found, for people: the plots at a sweep's end (`plots`), and one page of one or several (`page`)."""
