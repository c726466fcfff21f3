"""What a sweep found, for people: plots at its end, and a page of several."""
