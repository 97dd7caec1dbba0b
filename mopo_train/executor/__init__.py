"""Training the policies of a family on a Ray cluster.

``cluster`` joins one, ``driver`` hands out tasks and watches them, ``tasks`` is what a worker does, ``parcel`` carries
files where there is no shared file system. Only ``driver`` and ``cluster`` import ray, when they are called.
"""
