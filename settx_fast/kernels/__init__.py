"""Triton kernels of induced set attention; the only importer of triton.

Every kernel is a thin shell around a device function of (set b, tile), so that one launch can run several stages in a
row with a barrier between them. `sets.py` says where rows lie, `config.py` how large tiles are, `primitives.py` holds
what the stages share; `aggregate*.py` read the set, `broadcast*.py` write it.
"""
