"""Mixture of experts: routers, experts and the losses that keep them busy."""
