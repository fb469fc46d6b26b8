"""What jobs train on: labelled images, where they come from, and which client has which.

* :mod:`evaluation.data.images` is the form that every source has;
* :mod:`evaluation.data.sources` finds the data sets by name, and says what is missing;
* :mod:`evaluation.data.folders` reads those with files, with ``speech`` and ``decoded``;
* :mod:`evaluation.data.partition` deals the training samples out to clients.

Needs NumPy; no torch. Files and how they are fetched: ``datasets/``.
"""
