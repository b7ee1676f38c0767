"""Attacks on a model that was unlearned: is the knowledge gone, or does it come back?"""
