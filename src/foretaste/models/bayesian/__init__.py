"""Bayesian matrix factorisation: the model, its Gibbs sampler, drift and ordered probit."""
