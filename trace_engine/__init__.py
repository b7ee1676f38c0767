"""TRACE: which experts of a Mixture-of-Experts model carry a body of knowledge, and can it be removed?"""

__version__ = "0.1.0"
