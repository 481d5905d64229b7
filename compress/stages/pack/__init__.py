"""Packs the linears of a model block by block and writes them to shards."""
