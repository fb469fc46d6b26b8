"""Training with torch: models, local training on clients' data, evaluation. Nothing else of Propius
imports torch.

* :mod:`evaluation.training.trainer` is one device that trains and scores for many jobs, and
  :mod:`evaluation.training.device` which one that is;
* :mod:`evaluation.training.models` builds the models by name;
* :mod:`evaluation.training.initial` makes the weights that a job begins with;
* :mod:`evaluation.training.batches` draws which samples a client trains on, whatever trains them;
* :mod:`evaluation.training.local` trains clients from a round's global weights, many at once or
  one after the other, with the same result;
* :mod:`evaluation.training.specs` has the records that need no torch: models, hyper-parameters;
* :mod:`evaluation.training.scoring` evaluates weights on a test split.

Weights cross the border of this package as NumPy arrays by name. Aggregation of what clients return
(:mod:`evaluation.aggregators`) needs no torch and is not here; neither are data and partitions.
Needs the extra ``training``.
"""
