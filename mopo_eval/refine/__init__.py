"""Finding a policy that just holds floors: a search over interpolated and newly trained ones (``mopo-eval refine``).

The search looks at scores on the prompts that it certifies with, so it may only visit policies that were fixed before
it began: the dyadic places between neighbours, and a few trainings beyond the safest planned policy. The bounds share
their error among all of them, visited or not; whatever the search does with what it sees, the certified bounds hold.
"""
