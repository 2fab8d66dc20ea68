"""Mistakes of one line, planted one at a time in a copy of the sources: which of them does no test notice?"""
